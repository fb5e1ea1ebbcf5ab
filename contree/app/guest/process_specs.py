"""The processes of a run as the guest is told of them: environment, directory and bounds resolved.

Each raises InvalidFieldError when environment and arguments together fit no process.
"""

from __future__ import annotations

from collections.abc import Mapping

from contree.app.content.project_environment import Inherited
from contree.app.guest.microvm import ProcessSpec
from contree.app.images.runnable_image import RunnableImage
from contree.domain.environment import process_environment
from contree.domain.instance import InstanceSpec, require_fitting
from contree.domain.subprocess import SubprocessSpec


def main_process(
    spec: InstanceSpec,
    image: RunnableImage,
    inherited: Inherited,
    request_env: Mapping[str, str | None],
) -> ProcessSpec:
    """Return the command of the run. Secrets in `request_env` have their real values."""
    env = process_environment(
        image_env=inherited.env,
        preserved_env=inherited.preserved_env,
        request_env=request_env,
        hostname=spec.hostname,
        shell=spec.shell,
    )
    argv, cwd = spec.argv(env), spec.cwd or image.workdir or "/"
    require_fitting(argv, env, cwd)
    return ProcessSpec(
        argv=argv,
        env=env,
        secret_env=frozenset(spec.env_digests),
        cwd=cwd,
        uid=spec.uid,
        gid=spec.gid,
        home=_has_default_home(request_env),
        stdin_open=spec.stdin is not None,
        timeout_ms=spec.timeout_s * 1000,
        output_bytes_max=spec.output_bytes_max,
    )


def client_process(
    wanted: SubprocessSpec,
    spec: InstanceSpec,
    image: RunnableImage,
    inherited: Inherited,
    env: Mapping[str, str | None],
) -> ProcessSpec:
    """Return a process beside it, without a timeout: it ends with the instance at the latest."""
    environment = process_environment(
        image_env=inherited.env,
        preserved_env=inherited.preserved_env,
        request_env=env,
        hostname=spec.hostname,
        shell=spec.shell or wanted.shell,
    )
    argv = wanted.argv(environment)
    cwd = wanted.cwd or spec.cwd or image.workdir or "/"
    require_fitting(argv, environment, cwd)
    return ProcessSpec(
        argv=argv,
        env=environment,
        secret_env=frozenset(spec.env_digests) | frozenset(wanted.env_digests),
        cwd=cwd,
        uid=wanted.uid,
        gid=wanted.gid,
        home=_has_default_home(env),
        stdin_open=wanted.stdin is not None,
        output_bytes_max=wanted.output_bytes_max,
    )


def _has_default_home(env: Mapping[str, str | None]) -> bool:
    """None unsets a variable, this one too."""
    return env.get("HOME", "") is not None
