"""`contree build` of a Dockerfile with several stages."""

from __future__ import annotations

from tests.acceptance.api import Api
from tests.acceptance.terminal import Terminal

DOCKERFILE = """\
ARG BASE=busybox:latest
FROM tag:${BASE} AS build
ARG VERSION=0
ENV GREETING=hi \\
    LEVEL="2 b"
WORKDIR /src
COPY src/ /src/
RUN echo "$GREETING $VERSION $LEVEL" >built && cat hello >>built && \\
    chmod 750 built && ln -s built link
RUN ["sh", "-c", "pwd >where"]
USER nobody
RUN id -un >/tmp/user

FROM busybox:latest
WORKDIR /app
COPY --from=build /src/built /tmp/user /app/
COPY --from=0 --chown=7:8 /src /app/all
COPY --from=tag:busybox:latest /etc/passwd old-passwd
COPY --chmod=0711 src/hello greeting
ADD src/hello /added/
CMD ["not", "supported", "by", "the", "client"]
"""


def test_a_dockerfile_of_two_stages_is_built_and_kept(
    terminal: Terminal, api: Api, busybox: str
) -> None:
    context = terminal.home / "app"
    (context / "src").mkdir(parents=True)
    (context / "src" / "hello").write_text("hello from the context\n")
    (context / "src" / "left-out.log").write_text("a secret\n")
    (context / ".dockerignore").write_text("**/*.log\n")
    (context / "Dockerfile").write_text(DOCKERFILE)
    (built,) = terminal.rows("build", "app", "--tag", "cli/app:1", "--build-arg", "VERSION=1.2")
    assert built["tag"] == "cli/app:1"
    image = built["image"]
    assert api.download(image, "/app/built") == b"hi 1.2 2 b\nhello from the context\n"
    assert api.download(image, "/app/user") == b"nobody\n"
    assert api.download(image, "/app/all/where") == b"/src\n"
    assert api.download(image, "/app/old-passwd") == api.download(busybox, "/etc/passwd")
    entries = api.listing(image, "/app") | api.listing(image, "/app/all")
    assert (entries["built"]["uid"], entries["built"]["gid"]) == (7, 8)
    assert entries["link"]["symlink_to"] == "built"
    assert entries["greeting"]["mode"] & 0o7777 == 0o711
    assert "left-out.log" not in entries
    assert set(api.listing(image, "/added")) == {"hello"}
    assert not {name for name in api.listing(image, "/") if name.startswith(".contree")}

    # The same again is what the client keeps of it; a step that fails fails the build.
    (context / "Dockerfile").write_text("FROM busybox:latest\nRUN echo 1 >/one\nRUN exit 3\n")
    terminal.type("build", "app", status=1)
    (context / "Dockerfile").write_text("FROM busybox:latest\nRUN echo 1 >/one\n")
    before = len(api.get("/operations", limit=1000))
    (kept,) = terminal.rows("build", "app")
    assert len(api.get("/operations", limit=1000)) == before
    assert api.download(kept["image"], "/one") == b"1\n"
