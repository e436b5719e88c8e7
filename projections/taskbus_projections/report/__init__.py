"""The report: one page about a period, as facts for programs, as Markdown, and as an HTML file with plots.

`facts` asks the read models, `sections` puts the answers into words, `markdown` and `page` write them. Everything
that an envelope said is hostile text until one of the two has escaped it.
"""
