"""Verification: whether archive, log and audit table are what was appended, right to the envelope.

Reading order: discrepancy → walk → frames → sealed → raw → comparison → verified → witnesses → exported → verifying →
heads.
"""

from __future__ import annotations

from taskbus.verification.discrepancy import Discrepancy
from taskbus.verification.sealed import SealedCopy
from taskbus.verification.verified import Linked, Verified
from taskbus.verification.verifying import Verification

__all__ = ["Discrepancy", "Linked", "SealedCopy", "Verification", "Verified"]
