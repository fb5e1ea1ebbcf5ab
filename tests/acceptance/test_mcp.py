"""The published contree-mcp: all of it over stdio, and that the same is there over HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mcp.shared.exceptions import McpError

from tests.acceptance.agent import Agent, over_http, over_stdio
from tests.acceptance.api import Api
from tests.support.server import RunningServer

TOOLS = {
    *("list_images", "registry_token_obtain", "registry_auth", "import_image", "get_image"),
    *("set_tag", "run", "rsync", "upload", "download", "get_operation", "list_operations"),
    *("wait_operations", "cancel_operation", "whoami", "list_files", "read_file", "grep"),
    "get_guide",
}
GUIDES = {"workflow", "reference", "quickstart", "state", "async", "tagging", "errors"}
PROMPTS = {
    "prepare-environment": {"task": "plot"},
    "run-python": {"code": "print(1)"},
    "run-shell": {"command": "true"},
    "sync-and-run": {"source": "/src", "command": "true"},
    "install-packages": {"packages": "curl"},
    "parallel-tasks": {"tasks": "a"},
    "build-project": {"source": "/src"},
    "debug-failure": {"operation_id": "op"},
    "inspect-image": {"image": "tag:busybox:latest"},
    "multi-stage-build": {"source": "/src"},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
async def agent(
    server: RunningServer, token: str, busybox: str, home: Path
) -> AsyncIterator[Agent]:
    """One MCP server for all; its session belongs to one task, as its library wants."""
    started: asyncio.Future[Agent] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def hold() -> None:
        browser = f"{home}/browser %s"
        async with over_stdio(server.url, token, home, BROWSER=browser) as agent:
            started.set_result(agent)
            await over.wait()

    holder = asyncio.create_task(hold())
    await asyncio.wait([holder, started], return_when=asyncio.FIRST_COMPLETED)
    if holder.done():
        holder.result()
    yield started.result()
    over.set()
    await holder


async def test_everything_is_offered(agent: Agent) -> None:
    assert await agent.tools() == TOOLS
    assert {prompt.name for prompt in (await agent.session.list_prompts()).prompts} == set(PROMPTS)
    for name, arguments in PROMPTS.items():
        (message, *_) = (await agent.session.get_prompt(name, arguments)).messages
        assert message.content.type == "text"
        assert message.content.text
    guides = {str(resource.uri) for resource in (await agent.session.list_resources()).resources}
    assert guides == {f"contree://guide/{section}" for section in GUIDES}
    templates = (await agent.session.list_resource_templates()).resourceTemplates
    assert len(templates) == 5
    for section in GUIDES:
        told = await agent.call("get_guide", section=section)
        assert told["content"] == await agent.read(f"guide/{section}") != ""
    assert "Unknown guide" in await agent.refusal("get_guide", section="none")


async def test_images_are_imported_found_tagged_and_looked_into(
    agent: Agent, busybox_url: str, busybox: str, home: Path
) -> None:
    permissions = (await agent.call("whoami"))["permissions"]
    assert permissions["spawn"] is permissions["import"] is True
    anonymous = {"i_accept_that_anonymous_access_might_be_rate_limited": True}
    imported = await agent.call(
        "import_image", registry_url=busybox_url, tag="mcp/busybox:1", **anonymous
    )
    assert (imported["status"], imported["result"]["image"]) == ("SUCCESS", busybox)
    told = await agent.read(f"operations/import/{imported['uuid']}")
    assert f"RESULT_IMAGE: {busybox}\nRESULT_TAG: mcp/busybox:1\n" in told
    assert busybox_url in told
    waiting = await agent.call(
        "import_image",
        registry_url=busybox_url.replace("library", "no"),
        wait=False,
        **anonymous,
    )
    ended = await agent.call("wait_operations", operation_ids=[waiting["operation_id"]])
    (failed,) = ended["results"].values()
    assert (failed["status"], bool(failed["error"])) == ("FAILED", True)
    assert "STATE: FAILED" in await agent.read(f"operations/import/{waiting['operation_id']}")

    found = await agent.call("list_images", tag_prefix="mcp/", since="1h")
    assert [image["uuid"] for image in found["images"]] == [busybox]
    assert (await agent.call("get_image", image="tag:mcp/busybox:1"))["uuid"] == busybox
    assert (await agent.call("get_image", image=busybox))["operation_uuid"]
    assert (await agent.call("set_tag", image_uuid=busybox, tag="mcp/b:2"))["tag"] == "mcp/b:2"

    listing = await agent.call("list_files", image="tag:mcp/b:2", path="/etc")
    assert {"passwd", "os-release"} <= {entry["name"] for entry in listing["files"]}
    read = await agent.call("read_file", image=busybox, path="/etc/hostname")
    assert (read["content"], read["encoding"]) == ("busybox\n", "utf-8")
    hits = await agent.call("grep", image=busybox, pattern="^nobody:", path="/etc", glob="pass*")
    assert [(hit["path"], hit["line_number"]) for hit in hits["matches"]] == [("/etc/passwd", 2)]
    assert await agent.read(f"image/{busybox}/read/etc/hostname") == "busybox\n"
    assert await agent.read("image/tag:mcp%2Fb:2/ls/etc") == await agent.read(
        f"image/{busybox}/ls/etc"
    )
    assert "lrwxrwxrwx" in await agent.read(f"image/{busybox}/ls/bin")
    # The root, as its guide names it, is `ls/.`: the mcp library makes `ls/` of that URL, which
    # matches no template.
    assert "drwx------" in await agent.read(f"image/{busybox}/ls//")
    saved = await agent.call(
        "download", image=busybox, path="/bin/busybox", destination=f"{home}/in/busybox",
        executable=True,
    )  # fmt: skip
    program = home / "in" / "busybox"
    assert saved["success"] is True
    assert os.access(program, os.X_OK)
    assert program.read_bytes()[:4] == b"\x7fELF"
    assert "404" in await agent.refusal("read_file", image=busybox, path="/no/such")
    with pytest.raises(McpError, match="404"):
        await agent.read(f"image/{busybox}/read/no/such")


async def test_commands_run_on_uploaded_files_and_leave_images(
    agent: Agent, busybox: str, home: Path
) -> None:
    source = home / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "tool").write_text("#!/bin/sh\necho tool\n")
    (source / "sub" / "tool").chmod(0o755)
    (source / "skipped.pyc").write_text("")
    (source / "empty").write_text("")
    tree = await agent.call("rsync", source=str(source), destination="/app", exclude=["*.pyc"])
    text = await agent.call("upload", content="grüße\n")
    raw = await agent.call("upload", content_base64=base64.b64encode(b"\0\xff").decode())
    local = await agent.call("upload", path=str(source / "empty"))
    made = await agent.run(
        "app/sub/tool; cat; cat /in; wc -c </raw; find /app -type f | sort; echo $A >/kept; exit 3",
        stdin="zwölf\n",
        env={"A": "kept"},
        files={"/in": text["uuid"], "/raw": raw["uuid"], "/empty": local["uuid"]},
        directory_state_id=tree,
        disposable=False,
        max_layer_bytes=1_000_000,
    )
    assert (made["status"], made["exit_code"], made["timed_out"]) == ("SUCCESS", 3, False)
    assert made["stdout"].splitlines() == [
        *("tool", "zwölf", "grüße", "2"),
        *("/app/empty", "/app/sub/tool"),
    ]
    image = made["result_image_uuid"]
    binary = await agent.call("read_file", image=image, path="/raw")
    assert (base64.b64decode(binary["content"]), binary["encoding"]) == (b"\0\xff", "base64")
    assert (await agent.read(f"image/{image}/read/raw")) == "base64:AP8="
    assert await agent.call("rsync", source=str(source), destination="/app", exclude=["*.pyc"])

    told = json.loads(await agent.read(f"operations/instance/{made['uuid']}"))
    assert (told["state"], told["exit_code"], told["result_image"]) == ("SUCCESS", 3, image)
    assert told["resources"]["max_rss"] > 0
    lineage = json.loads(await agent.read(f"image/{image}/lineage"))
    assert (lineage["parent"], lineage["is_known"]) == (busybox, True)
    direct = await agent.run(
        "/bin/stat", image=image, shell=False, uid=5, gid=6, cwd="/app", timeout=60
    )
    assert (direct["exit_code"], direct["result"]["image"]) == (1, None)
    assert "404" in await agent.refusal("run", command="true", image="tag:no/such")


async def test_operations_run_beside_each_other_and_end(agent: Agent, api: Api) -> None:
    orders = [await agent.run(f"echo {n}", wait=False) for n in range(2)]
    uuids = [order["operation_id"] for order in orders]
    ended = await agent.call("wait_operations", operation_ids=uuids)
    assert {uuid: ended["results"][uuid]["stdout"] for uuid in uuids} == {
        uuids[0]: "0\n",
        uuids[1]: "1\n",
    }
    quick, slow = [
        (await agent.run(command, wait=False, timeout=300))["operation_id"]
        for command in ("true", "sleep 600")
    ]
    raced = await agent.call("wait_operations", operation_ids=[quick, slow], mode="any")
    assert (raced["completed"], raced["cancelled"]) == ([quick], [slow])
    assert api.wait(slow)["status"] == "CANCELLED"
    cancelled = await agent.call("cancel_operation", operation_id=slow)
    assert cancelled["cancelled"] is True  # it says what is so already

    running = (await agent.run("sleep 600", wait=False, timeout=300))["operation_id"]
    await asyncio.to_thread(api.wait_for, running, {"EXECUTING"})
    listed = await agent.call("list_operations", status="EXECUTING", type="instance", since="1h")
    assert [operation["uuid"] for operation in listed["operations"]] == [running]
    assert (await agent.call("cancel_operation", operation_id=running))["cancelled"] is True
    await asyncio.to_thread(api.wait, running)
    assert (await agent.call("get_operation", operation_id=running))["status"] == "CANCELLED"
    late = await agent.run("sleep 600", timeout=1)
    assert (late["timed_out"], late["exit_code"]) == (True, -1)


async def test_registries_are_logged_in_to(agent: Agent, home: Path, busybox_url: str) -> None:
    """A login needs a registry behind HTTPS on port 443: here it goes as far as its refusal."""
    browser = home / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >{home}/opened\n')
    browser.chmod(0o755)
    opened = await agent.call("registry_token_obtain", registry_url="docker://ghcr.io/a/b")
    assert (opened["status"], opened["registry"]) == ("success", "ghcr.io")
    assert (home / "opened").read_text().strip() == opened["url"]
    unknown = await agent.call("registry_token_obtain", registry_url=busybox_url)
    assert unknown["status"] == "error"
    assert await agent.refusal(
        "registry_auth", registry_url=busybox_url, username="somebody", token="secret"
    )
    asked = await agent.refusal("import_image", registry_url=busybox_url)
    assert "Not authenticated" in asked


async def test_the_same_is_there_over_http(
    server: RunningServer, token: str, busybox: str, tmp_path: Path
) -> None:
    async with over_http(server.url, token, tmp_path) as agent:
        assert await agent.tools() == TOOLS
        made = await agent.run("cat; echo kept >/kept; exit 3", stdin="fed\n", disposable=False)
        assert (made["status"], made["exit_code"], made["stdout"]) == ("SUCCESS", 3, "fed\n")
        assert await agent.read(f"image/{made['result_image_uuid']}/read/kept") == "kept\n"
        assert "404" in await agent.refusal("run", command="true", image="tag:no/such")
