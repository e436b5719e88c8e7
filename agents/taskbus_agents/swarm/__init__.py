"""The swarm: the workers of many agents on this machine, in a few processes that are kept running.

    lines     what a crew tells the swarm, one JSON object per line
    crew      one process: the workers of some agents
    swarm     the processes: started, started again when they die, ended together
    board     what each agent is doing, for whoever watches

Several machines may run parts of one policy: they know of each other by the server alone.
"""
