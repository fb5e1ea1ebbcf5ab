"""Proofs between checkpoints: what was written proves itself, and nothing that differs does."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from contree.adapters.system.note_keys import is_signature
from contree.app.proof.bundle import Proven
from contree.app.proof.consistency import check_consistency, is_consistency, prove_consistency
from contree.app.proof.growth import LogAlteredError
from contree.app.proof.signed import SignedCheckpoint, opened, signed
from contree.domain.checkpoint import Checkpoint
from contree.domain.errors import InvalidFieldError
from contree.domain.merkle import EMPTY_ROOT
from contree.domain.note import VerifierKey
from tests.support.proofs import ProofWorld, SeededSigner

STEPS = (1, 6, 9, 40)


class Signed:
    """A log that was signed now and then."""

    def __init__(self, world: ProofWorld, checkpoints: Sequence[SignedCheckpoint]) -> None:
        self.world, self.checkpoints = world, checkpoints

    async def proof(self, older: int = 0, newer: int = -1) -> bytes:
        """Between two of the checkpoints, by their number."""
        pair = self.checkpoints[older], self.checkpoints[newer]
        return (await prove_consistency(self.world.tree, *pair)).encoded()


async def signed_log(seed: int = 5) -> Signed:
    world, checkpoints = ProofWorld(seed=seed), []
    for steps in STEPS:
        await world.append(steps)
        newest = await world.checkpoints().advance()
        assert newest is not None
        checkpoints.append(newest)
    return Signed(world, checkpoints)


@pytest.fixture
async def log() -> Signed:
    return await signed_log()


def checked(data: bytes, *keys: VerifierKey) -> Proven:
    return check_consistency(data, keys=keys, check=is_signature)


def resigned(checkpoint: Checkpoint, signer: SeededSigner) -> SignedCheckpoint:
    return opened(signed(checkpoint, signer), [signer.key], is_signature)


async def test_every_pair_of_checkpoints_is_proven(log: Signed) -> None:
    count = len(log.checkpoints)
    for older in range(count):
        for newer in range(older, count):
            data = await log.proof(older, newer)
            assert is_consistency(data)
            proven = checked(data, log.world.signer.key)
            size = log.checkpoints[older].checkpoint.size
            assert (proven.event_count, proven.signed) == (size, log.checkpoints[newer])
            assert f"events 1 to {size} of the log are still those" in proven.what
            assert not proven.key_is_its_own
            assert checked(data).key_is_its_own


async def test_every_edit_is_found(log: Signed) -> None:
    document = json.loads(await log.proof())
    other = json.loads(await log.proof(1, 2))

    def with_(*path: str, value: Any) -> Any:
        changed = copy.deepcopy(document)
        at = changed
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = value
        return changed

    path = document["proof"]
    edits = [
        with_("format", value="contree/consistency-proof/v2"),
        with_("older", value=document["newer"]),
        with_("newer", value=document["older"]),
        with_("older", value=other["older"]),
        with_("newer", value=other["newer"]),
        with_("proof", value=other["proof"]),
        with_("proof", value=[]),
        with_("proof", value=path[::-1]),
        with_("proof", value=[*path, path[-1]]),
        with_("proof", value=["x"]),
        *(with_("proof", value=path[:n] + path[n + 1 :]) for n in range(len(path))),
        *(with_("older", name, value="") for name in document["older"]),
        with_("older", "checkpoint", value=document["older"]["checkpoint"].replace("time", "Time")),
        document | {"more": 1},
        {name: value for name, value in document.items() if name != "older"},
    ]
    assert len(path) > 3
    for edited in edits:
        with pytest.raises(InvalidFieldError):
            checked(json.dumps(edited).encode())


async def test_one_that_ends_early_is_found(log: Signed) -> None:
    data = (await log.proof()).rstrip()
    for end in range(len(data)):
        assert not is_consistency(data[:end])
        with pytest.raises(InvalidFieldError, match="is not whole"):
            checked(data[:end])


async def test_another_key_and_another_log_are_refused(log: Signed) -> None:
    data = await log.proof()
    stranger = SeededSigner("stranger")
    with pytest.raises(InvalidFieldError, match=r"public_key.*not a key that was given"):
        checked(data, stranger.key)
    foreign = await signed_log(seed=6)
    document = json.loads(data) | {"older": json.loads(await foreign.proof())["older"]}
    with pytest.raises(InvalidFieldError, match=r"does not lead from the checkpoint over \d+"):
        checked(json.dumps(document).encode(), log.world.signer.key)
    with pytest.raises(LogAlteredError, match=r"first \d+ events are not those of the checkpoint"):
        await prove_consistency(log.world.tree, foreign.checkpoints[0], log.checkpoints[-1])


async def test_after_a_change_of_keys_both_have_to_be_known(log: Signed) -> None:
    later = SeededSigner("later", name="contree/later")
    newer = resigned(replace(log.checkpoints[-1].checkpoint, origin="contree/later"), later)
    data = (await prove_consistency(log.world.tree, log.checkpoints[0], newer)).encoded()
    assert checked(data, log.world.signer.key, later.key).signed == newer
    with pytest.raises(InvalidFieldError, match="are of two keys"):
        checked(data)
    for key in (log.world.signer.key, later.key):
        with pytest.raises(InvalidFieldError, match="not a key that was given"):
            checked(data, key)


async def test_what_leads_nowhere_is_refused(log: Signed) -> None:
    first, last = log.checkpoints[0], log.checkpoints[-1]
    size = last.checkpoint.size
    nothing = resigned(replace(first.checkpoint, size=0, root=EMPTY_ROOT), log.world.signer)
    beyond = resigned(replace(last.checkpoint, size=size + 1), log.world.signer)
    for older, newer, said in (
        (last, first, "give 0 < from <= to"),
        (nothing, last, "from: covers 0 events"),
        (first, beyond, f"to: covers {size + 1} events, the log's tree has {size}"),
    ):
        with pytest.raises(InvalidFieldError, match=said):
            await prove_consistency(log.world.tree, older, newer)
