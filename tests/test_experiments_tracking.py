"""Where metrics go: W&B is asked for nothing that it would have to ask a person for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.__main__ import main
from experiments.config.trainer_schemas import LoggingConfig
from experiments.runs.tracking import check_logging, wandb_logger
from negatives.tables import InputError
from tests.wandb_server import wandb_server


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine on which nobody has logged in to W&B."""
    import wandb

    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb"))
    # W&B remembers the settings that it was started with
    wandb.teardown()
    yield tmp_path
    wandb.teardown()


def test_going_online_without_a_key_is_refused_before_any_work(
    stranger: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.verbs.compare.run", lambda *_, **__: pytest.fail("worked"))
    words = ["compare", str(stranger), f"output_dir={stranger / 'out'}", "logging.wandb=online"]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "to go online needs a key of W&B: none is found; run `wandb login`" in line
    with pytest.raises(InputError, match="needs a key of W&B"):
        wandb_logger(LoggingConfig("online"), folder=stranger, name="a", job_type="train", settings=LoggingConfig())


def test_a_key_that_is_none_is_refused(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(InputError, match=r"needs a key of W&B: WANDB_API_KEY invalid"):
        check_logging(LoggingConfig("online"))


def test_a_key_is_taken_if_the_server_takes_it(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        wandb.teardown()
        check_logging(LoggingConfig("online"))
        server.knows_key = False
        wandb.teardown()
        with pytest.raises(InputError, match="the server did not recognize an account") as refused:
            check_logging(LoggingConfig("online"))
        assert "\n" not in str(refused.value)
    assert server.faults == []


@pytest.mark.slow  # W&B's client asks for 10 s
def test_online_without_a_network_is_refused_before_any_work(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    with wandb_server() as server:
        # a port that nobody listens at any more
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    wandb.teardown()
    with pytest.raises(
        InputError, match=r"Failed to authenticate with http.*A run without a network logs with logging"
    ):
        check_logging(LoggingConfig("online"))


def test_a_mode_that_sends_nothing_needs_no_key(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_logging(LoggingConfig("offline"))
    check_logging(LoggingConfig("disabled"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_logging(LoggingConfig("online"))


def test_wandb_is_given_no_key_that_it_warns_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("wandb.init", lambda **keys: given.update(keys))
    logger = wandb_logger(LoggingConfig(), folder=tmp_path, name="a", job_type="train", settings=LoggingConfig())
    assert logger is not None
    assert logger.experiment is None
    assert given["name"] == "a"
    # W&B warns of it whatever its value is
    assert "anonymous" not in given
