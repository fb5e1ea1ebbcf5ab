"""What aggregates decide and refuse, told through their public methods; no log, no clock."""

from __future__ import annotations

from uuid import UUID

import pytest

from contree.domain import image as image_module
from contree.domain.errors import (
    InvalidFieldError,
    InvalidTransitionError,
    LimitExceededError,
    NotFoundError,
)
from contree.domain.file import File, file_id_of
from contree.domain.image import (
    Image,
    RecordedEnvironment,
    chain_id_of,
    committed_image_id,
    imported_image_id,
)
from contree.domain.project import Project, project_id_of
from contree.domain.tag import Tag, tag_id_of
from contree.domain.token import Permission, Token
from tests.fakes.clock import FakeClock
from tests.support.histories import context_at

PROJECT = project_id_of("test")
CONTEXT = context_at(FakeClock(), PROJECT)


def an_image(config_digest: str = "sha256:c") -> Image:
    return Image.imported(
        CONTEXT,
        operation_id=UUID(int=5),
        registry_url="docker://r/i:t",
        manifest_digest="sha256:m",
        config_digest=config_digest,
        layers=["sha256:a"],
        environment=RecordedEnvironment(env={"A": "1"}),
        workdir="/w",
        size_bytes=9,
    )


def test_an_unchanged_remote_image_has_the_same_id_in_a_project_and_another_elsewhere() -> None:
    assert an_image().id == an_image().id == imported_image_id(PROJECT, "sha256:c")
    assert an_image("sha256:d").id != an_image().id
    assert imported_image_id(UUID(int=7), "sha256:c") != an_image().id


def test_a_run_puts_its_layer_on_top_and_inherits_the_rest() -> None:
    source, operation_id = an_image(), UUID(int=6)
    image = source.committed(
        CONTEXT,
        operation_id=operation_id,
        layer="sha256:b",
        workdir="/x",
        size_bytes=3,
    )
    assert image.id == committed_image_id(operation_id)
    assert (image.own_layers, image.depth, image.workdir) == (["sha256:b"], 1, "/x")
    assert image.chain_id == chain_id_of(["sha256:a", "sha256:b"])
    assert (image.parent_image_id, image.operation_id) == (source.id, operation_id)
    assert (source.own_layers, source.depth) == (["sha256:a"], 0)


def test_an_environment_is_recorded_once_and_referred_to_from_then_on() -> None:
    source = an_image()
    assert source.environment_image_id == source.id
    heir = source.committed(
        CONTEXT, operation_id=UUID(int=6), layer="sha256:b", workdir="", size_bytes=3
    )
    assert heir.environment_image_id == source.id
    stored = RecordedEnvironment(preserved_env={"P": "<SEALED>"}, preserved_env_sealed="c2VhbGVk")
    storing = heir.committed(
        CONTEXT,
        operation_id=UUID(int=7),
        layer=None,
        workdir="",
        size_bytes=0,
        environment=stored,
    )
    assert storing.environment_image_id == storing.id
    assert storing.environment == stored
    heir = storing.committed(
        CONTEXT, operation_id=UUID(int=8), layer="sha256:b", workdir="", size_bytes=3
    )
    assert (heir.environment_image_id, heir.environment) == (storing.id, RecordedEnvironment())


def test_an_image_at_the_depth_limit_takes_no_further_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "DEPTH_MAX", 1)
    last = an_image().committed(
        CONTEXT, operation_id=UUID(int=6), layer="sha256:b", workdir="", size_bytes=3
    )
    with pytest.raises(LimitExceededError, match=r"depth: image '.*' has 1 runs below it"):
        last.committed(
            CONTEXT, operation_id=UUID(int=7), layer="sha256:c", workdir="", size_bytes=3
        )


def test_an_image_of_changed_metadata_alone_has_no_new_layer() -> None:
    image = an_image().committed(
        CONTEXT,
        operation_id=UUID(int=6),
        layer=None,
        workdir="/x",
        size_bytes=0,
    )
    assert (image.own_layers, image.depth) == ([], 1)
    assert image.chain_id == an_image().chain_id == "sha256:a"


def test_a_chain_id_is_the_one_of_the_oci_image_spec() -> None:
    """The second one by `printf '%s %s' sha256:a sha256:b | sha256sum`."""
    assert chain_id_of([]) is None
    assert chain_id_of(["sha256:a"]) == "sha256:a"
    two = chain_id_of(["sha256:a", "sha256:b"])
    assert two == "sha256:970a948bffa8de94d6e22d747ba8c95030e6e546909f98f54e99a13005e173a8"
    assert chain_id_of(["sha256:b"], below="sha256:a") == two


def test_a_tag_moves_is_removed_and_comes_back() -> None:
    one, two = UUID(int=1), UUID(int=2)
    tag = Tag.assign(CONTEXT, name="base", image_id=one)
    assert tag.id == tag_id_of(PROJECT, "base")
    tag.move(CONTEXT, image_id=two)
    tag.remove(CONTEXT)
    assert tag.image_id is None
    tag.move(CONTEXT, image_id=one)
    assert tag.image_id == one
    assert len(tag.collect_events()) == 4


def test_moving_a_tag_to_where_it_points_records_nothing() -> None:
    tag = Tag.assign(CONTEXT, name="base", image_id=UUID(int=1))
    tag.collect_events()
    tag.move(CONTEXT, image_id=UUID(int=1))
    assert not tag.pending_events


def test_removing_a_tag_that_points_nowhere_is_refused() -> None:
    tag = Tag.assign(CONTEXT, name="base", image_id=UUID(int=1))
    tag.remove(CONTEXT)
    with pytest.raises(NotFoundError):
        tag.remove(CONTEXT)


def test_a_tag_of_a_wrong_name_is_never_made() -> None:
    with pytest.raises(InvalidFieldError):
        Tag.assign(CONTEXT, name="a b", image_id=UUID(int=1))


def test_equal_content_is_the_same_file_in_a_project() -> None:
    file = File.upload(CONTEXT, sha256="00", size_bytes=1)
    assert file.id == file_id_of(PROJECT, "00")
    assert file_id_of(UUID(int=7), "00") != file.id


def test_a_token_is_revoked_once() -> None:
    token = Token.issue(
        CONTEXT,
        token_id=UUID(int=3),
        secret_sha256="00",
        permissions=[Permission.LIST],
        expires_at=None,
    )
    assert (token.permissions, token.revoked) == (["list"], False)
    token.revoke(CONTEXT)
    assert token.revoked
    with pytest.raises(InvalidTransitionError):
        token.revoke(CONTEXT)


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "x" * 129])
def test_a_project_of_a_wrong_name_is_never_made(name: str) -> None:
    with pytest.raises(InvalidFieldError, match=r"^project: "):
        Project.create(CONTEXT, name=name)


def test_events_carry_who_when_and_for_what() -> None:
    (event,) = Tag.assign(CONTEXT, name="base", image_id=UUID(int=1)).collect_events()
    assert vars(event)["actor"] == "tester"
    assert vars(event)["project_id"] == PROJECT
    assert vars(event)["request_id"] == "request-1"
    assert vars(event)["timestamp"] == CONTEXT.at
