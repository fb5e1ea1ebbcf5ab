"""What tests of proofs share: keys that are not files, and a whole proving deployment on fakes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contree.adapters.system.note_keys import is_signature
from contree.app.proof.checkpoints import Checkpoints
from contree.app.proof.verify import Verdict, Verify
from contree.domain.note import VerifierKey
from tests.fakes.checkpoint_store import FakeCheckpointStore
from tests.fakes.clock import FakeClock
from tests.fakes.event_log import FakeEventLog
from tests.fakes.log_rows import FakeLogRows
from tests.fakes.log_tree import FakeLogTree
from tests.fakes.recorded_log import FakeRecordedLog
from tests.support.histories import History


class SeededSigner:
    """Signs with a key made from `seed`, under `name`."""

    def __init__(self, seed: str = "a", *, name: str = "contree/test") -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed.encode()).digest())
        self.key = VerifierKey(name=name, public_key=self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


class ProofWorld:
    """A log with everything beside it that proving needs. Positions have gaps."""

    def __init__(self, *, seed: int = 1) -> None:
        self.log = FakeEventLog()
        self.recorded = FakeRecordedLog(self.log, step=3)
        self.rows = FakeLogRows(self.recorded)
        self.tree = FakeLogTree(self.recorded)
        self.store = FakeCheckpointStore()
        self.clock = FakeClock()
        self.signer = SeededSigner()
        self.history = History(seed)

    async def append(self, steps: int) -> None:
        """Record so many decisions, of one event or two each."""
        if not self.log.events:
            await self.log.append(*self.history.aggregates.values())
        for _ in range(steps):
            await self.log.append(*self.history.step())

    def checkpoints(
        self,
        *,
        signer: SeededSigner | None = None,
        former_keys: Sequence[VerifierKey] = (),
        interval_s: float = 3600,
    ) -> Checkpoints:
        return Checkpoints(
            recorded=self.recorded,
            tree=self.tree,
            store=self.store,
            signer=signer or self.signer,
            former_keys=former_keys,
            check=is_signature,
            clock=self.clock,
            interval_s=interval_s,
        )

    async def verify(self, *, after: int | None = None) -> Verdict:
        verify = Verify(
            recorded=self.recorded,
            rows=self.rows,
            tree=self.tree,
            store=self.store,
            keys=[self.signer.key],
            check=is_signature,
        )
        return await verify.run(after=after)
