"""Settings from file, environment and options, without touching the real environment."""

from pathlib import Path

import pytest

from contree.config import Settings, load_settings, worker_environment
from contree.domain.errors import InvalidFieldError


def test_an_option_wins_over_a_variable_which_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "contreed.toml"
    file.write_text('listen = "127.0.0.1:1"\nlog_level = "ERROR"\nimports_here = 7\n')
    environment = {"CONTREED_CONFIG": str(file), "CONTREED_LISTEN": "127.0.0.1:2"}
    settings = load_settings({"log_level": "DEBUG", "listen": None}, environment)
    assert settings.address == ("127.0.0.1", 2)
    assert (settings.log_level, settings.imports_here) == ("DEBUG", 7)


def test_numbers_in_variables_are_numbers_and_paths_are_absolute() -> None:
    settings = load_settings(
        {}, {"CONTREED_GUEST_MEMORY_MIB": "256", "CONTREED_DATA_DIR": "somewhere"}
    )
    assert settings.guest_memory_mib == 256
    assert settings.data_dir == Path.cwd() / "somewhere"


@pytest.mark.parametrize(
    "environment",
    [
        {"CONTREED_ACCELERATOR": "magic"},
        {"CONTREED_GUEST_MEMORY_MIB": "much"},
        {"CONTREED_CONFIG": "/nonexistent/contreed.toml"},
        {"CONTREED_INSTANCES_HERE": "0"},
        {"CONTREED_CPU_OVERCOMMIT": "0"},
        {"CONTREED_WARM_GUESTS": "-1"},
        {"CONTREED_MEMORY_RESERVE_MIB": "-1"},
    ],
)
def test_a_bad_setting_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(InvalidFieldError):
        load_settings({}, environment)


def test_an_unknown_key_in_the_file_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "contreed.toml"
    file.write_text("lissten = 1\n")
    with pytest.raises(InvalidFieldError) as refused:
        load_settings({"config": str(file)}, {})
    assert str(refused.value) == f"lissten: is no setting, in '{file}'; did you mean listen?"


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("CONTREED_DATADIR", "; did you mean CONTREED_DATA_DIR?"),
        ("CONTREED_CONF", "; did you mean CONTREED_CONFIG?"),
        ("CONTREED_data_dir", ""),
        ("CONTREED_QQQQQ", ""),
    ],
)
def test_an_unknown_variable_is_refused_by_name(variable: str, hint: str) -> None:
    others = {"CONTREE_TOKEN": "of a client", "PATH": "/bin", "CONTREED_LISTEN": "127.0.0.1:1"}
    with pytest.raises(InvalidFieldError) as refused:
        load_settings({}, {variable: "/srv", **others})
    assert str(refused.value) == f"{variable}: is no setting, in the environment{hint}"
    assert load_settings({}, others).listen == "127.0.0.1:1"


@pytest.mark.parametrize("listen", ["8080", "host:", "host:99999", ":1"])
def test_an_address_is_host_and_port(listen: str) -> None:
    with pytest.raises(InvalidFieldError, match="listen"):
        _ = Settings(listen=listen).address


def test_a_child_process_gets_the_same_settings() -> None:
    settings = load_settings({"data_dir": "/srv/x", "guest_vcpu_count": 2}, {})
    environment = worker_environment(settings, supervisor=Path("/run/x/worker"))
    assert load_settings({}, environment) == settings


def test_the_runtime_directory_is_short_and_the_same_each_time() -> None:
    deep = Settings(data_dir=Path("/very" * 40))
    assert deep.runtime_dir == Settings(data_dir=Path("/very" * 40)).runtime_dir
    assert len(str(deep.runtime_dir)) < 60
