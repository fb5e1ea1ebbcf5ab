"""The processes of a run as the guest is told of them: environment, directory and bounds resolved."""

from __future__ import annotations

from collections.abc import Mapping

from contree.app.guest.microvm import ProcessSpec
from contree.domain.environment import process_environment
from contree.domain.image import Image
from contree.domain.instance import InstanceSpec
from contree.domain.subprocess import SubprocessSpec


def main_process(
    spec: InstanceSpec,
    image: Image,
    preserved: Mapping[str, str],
    request_env: Mapping[str, str | None],
) -> ProcessSpec:
    """Return the command of the run. Secrets in `request_env` have their real values."""
    env = process_environment(
        image_env=image.env,
        preserved_env=preserved,
        request_env=request_env,
        shell=spec.shell,
    )
    return ProcessSpec(
        argv=spec.argv(env),
        env=env,
        cwd=spec.cwd or image.workdir or "/",
        uid=spec.uid,
        gid=spec.gid,
        stdin_open=spec.stdin is not None,
        timeout_ms=spec.timeout_s * 1000,
        output_bytes_max=spec.output_bytes_max,
    )


def client_process(
    wanted: SubprocessSpec,
    spec: InstanceSpec,
    image: Image,
    preserved: Mapping[str, str],
    env: Mapping[str, str | None],
) -> ProcessSpec:
    """Return a process beside it, without a timeout: it ends with the instance at the latest."""
    environment = process_environment(
        image_env=image.env,
        preserved_env=preserved,
        request_env=env,
        shell=spec.shell or wanted.shell,
    )
    return ProcessSpec(
        argv=wanted.argv(environment),
        env=environment,
        cwd=wanted.cwd or spec.cwd or image.workdir or "/",
        uid=wanted.uid,
        gid=wanted.gid,
        stdin_open=wanted.stdin is not None,
        output_bytes_max=wanted.output_bytes_max,
    )
