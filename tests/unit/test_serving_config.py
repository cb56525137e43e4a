"""The configuration file: read strictly, with errors that name what is wrong, and without secrets."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from imrnn_vdb.cli import main
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.serving.config import TOKEN_VARIABLE, load_config

WHOLE = """
listen = "127.0.0.1:0"
grace_s = 5
[limits]
in_flight = 4
batch_wait_ms = 1
[telemetry]
log = "json"
[collections.articles]
url = "qdrant://localhost:6334/articles"
guard = { tenant = "a" }
[collections.model]
model = "minilm"
metric = "dot"
"""
ONE = '[collections.a]\nurl = "qdrant://localhost:6334/a"\n'


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)

    def loaded(text: str):
        path = tmp_path / "service.toml"
        path.write_text(text)
        return load_config(path)

    return loaded


def test_a_whole_file_is_read(load):
    config = load(WHOLE)
    assert list(config.collections) == ["articles", "model"]
    assert config.collections["articles"].guard == {"tenant": "a"}
    assert [found.searchable for found in config.collections.values()] == [True, False]
    assert (config.limits.in_flight, config.limits.batch, config.telemetry.log) == (4, 16, "json")
    assert config.token() is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no collection"),
        ("[collections.a]\n", "metric is given"),
        ("collections = 3\n", "collections are tables"),
        (ONE + 'colour = "red"\n', r"\[collections.a\]: colour is not known"),
        (ONE + "timeout = true\n", "timeout is a float"),
        (ONE + 'model = "m"\nmetric = "cosine"\n', "metric is given"),
        (ONE + 'attachment = "f.json"\n', "not both"),
        (
            '[collections.a]\nattachment = "f"\nguard = { t = "a" }\n',
            "guard beside attachment: give them in the attach",
        ),
        ('[collections.a]\nattachment = "f"\nvector_name = ""\nmodel = "minilm"\n', "model, vector_name beside attach"),
        ('[collections.a]\nattachment = "f"\ntext_field = "text"\n', "text_field beside attachment"),
        ('[collections.a]\nmetric = "hamming"\n', "metric is one of"),
        ('[collections.a]\nmetric = "cosine"\naudit = "log"\n', "audit records searches"),
        ('[collections.a]\nurl = "qdrant://key@host/a"\n', "no user name or key"),
        ('[collections.a]\nurl = "http://localhost:19530/a"\n', r"\[collections.a\]: no store is registered for 'http"),
        (ONE + "timeout = 0\n", r"\[collections.a\]: timeout must be"),
        (ONE + "attempts = 0\n", r"\[collections.a\]: .*attempts at least 1"),
        ('listen = "nowhere"\n' + ONE, "is no address"),
        ("[limits]\nin_flight = 0\n" + ONE, "at least 1"),
        ("[limits]\ncoarse_k = 99\n" + ONE, "coarse_k is at least 100"),
        ("[limits]\nslowdown = 0.5\n" + ONE, "slowdown is above 1"),
        ("[limits]\nbatch = 2.5\n" + ONE, "batch is a int"),
        ("[limits]\nslowdown = nan\n" + ONE, r"toml, \[limits\]: slowdown is nan, which is no finite"),
        ("[limits]\nmessage_mb = inf\n" + ONE, "message_mb is inf, which is no finite"),
        ("grace_s = inf\n" + ONE, "toml: grace_s is inf"),
        (ONE + "modulation_timeout = -inf\n", r"\[collections.a\]: modulation_timeout is -inf"),
        ("[limits]\nmessage_mb = 0\n" + ONE, r"toml, \[limits\]: message_mb and deadline_s are above 0"),
        (ONE + "modulation_timeout = 0\n", r"\[collections.a\]: a time limit is a finite number"),
        (ONE + "guard = 5\n", r"\[collections.a\]: guard is a table"),
        (ONE + "guard = { t = 1.5 }\n", r"\[collections.a\]: a guard maps payload keys"),
        ("[tls]\nkey = 'k'\n" + ONE, "certificate is missing"),
        ("[telemetry]\nlog = 'xml'\n" + ONE, "log is text or json"),
        ("listen = ", "no TOML"),
    ],
)
def test_what_is_wrong_is_named(load, text, complaint):
    with pytest.raises(InvalidInputError, match=complaint):
        load(text)


def test_other_machines_are_let_in_only_knowingly(load, tmp_path, monkeypatch):
    beyond = 'listen = "0.0.0.0:50061"\n'
    with pytest.raises(InvalidInputError, match="opens the service"):
        load(beyond + ONE).token()
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    with pytest.raises(InvalidInputError, match="opens the service"):
        load(beyond + ONE).token()  # a token without TLS can be read on the way
    tls = '[tls]\nkey = "k"\ncertificate = "c"\n'
    assert load(beyond + tls + ONE).token() == "secret"
    assert load(beyond + "insecure = true\n" + ONE).token() == "secret"
    for name in ("localhost", "127.0.0.1", "[::1]"):
        assert load(f'listen = "{name}:1"\n' + ONE).token() == "secret"
    (tmp_path / "token").write_text("from a file\n")
    assert load(f'token_file = "{tmp_path}/token"\n' + ONE).token() == "from a file"
    (tmp_path / "token").write_text("\n")
    with pytest.raises(InvalidInputError, match="is empty"):
        load(f'token_file = "{tmp_path}/token"\n' + ONE).token()
    for content in ("sécret".encode(), b"\xff\xfe"):
        (tmp_path / "token").write_bytes(content)
        with pytest.raises(InvalidInputError, match="token is printable ASCII"):
            load(f'token_file = "{tmp_path}/token"\n' + ONE).token()
    monkeypatch.setenv(TOKEN_VARIABLE, "secret\n")  # as a secret that is mounted may end
    assert load(ONE).token() == "secret"
    with pytest.raises(InvalidInputError, match="cannot be read"):
        load('token_file = "/nonexistent"\n' + ONE).token()
    assert "secret" not in repr(load(ONE))


def test_a_file_that_is_not_there_is_not_called_malformed(tmp_path):
    with pytest.raises(InvalidInputError, match=r"^\S+none.toml cannot be read"):
        load_config(tmp_path / "none.toml")


def test_the_command_checks_a_file(tmp_path):
    path = tmp_path / "service.toml"
    path.write_text(ONE)
    done = CliRunner().invoke(main, ["serve", "--config", str(path), "--check"])
    assert (done.exit_code, done.output) == (0, f"{path}: a on 127.0.0.1:50061\n")
    path.write_text("listen = 3")
    assert CliRunner().invoke(main, ["serve", "--config", str(path)]).exit_code == 2


def test_the_command_checks_the_files_that_are_named(tmp_path):
    path, log, link = tmp_path / "service.toml", tmp_path / "audit.jsonl", tmp_path / "link.jsonl"
    (tmp_path / "garbage").write_text("nothing of ours")
    link.symlink_to(log)

    def checked(text: str):
        path.write_text(text)
        return CliRunner().invoke(main, ["serve", "--config", str(path), "--check"])

    garbage, none = tmp_path / "garbage", tmp_path / "none" / "file"
    for text, complaint in (
        (f'[tls]\ncertificate = "{none}"\nkey = "{none}"\n' + ONE, f"[tls]: {none} cannot be read"),
        (f'[tls]\ncertificate = "{garbage}"\nkey = "{garbage}"\n' + ONE, "[tls]: "),
        (f'[collections.a]\nattachment = "{none}"\n', f"[collections.a]: {none} is no attachment"),
        (f'[collections.a]\nattachment = "{garbage}"\n', f"[collections.a]: {garbage} is no attachment"),
        ('[collections.a]\nattachment = "qdrant://key@host/a"\n', "[collections.a]: "),
        (ONE + f'topics = "{garbage}"\n', f"[collections.a]: {garbage} does not hold topics"),
        (ONE + f'audit = "{none}"\n', f"[collections.a]: the audit log {none} cannot be written"),
        (ONE + f'audit = "{link}"\n', f"[collections.a]: the audit log {link} cannot be written"),
    ):
        done = checked(text)
        assert done.exit_code == 2, (text, done.output)
        assert complaint in done.output
    for text in (ONE + f'audit = "{log}"\n', '[collections.a]\nattachment = "milvus://host:19530/a"\n'):
        assert checked(text).exit_code == 0, text
    assert not log.exists(), "a check makes no file"
    log.touch(0o600)
    assert checked(ONE + f'audit = "{log}"\n').exit_code == 0
    assert not log.read_text()


def test_a_check_tells_of_telemetry_that_is_not_installed(tmp_path, monkeypatch):
    path = tmp_path / "service.toml"
    path.write_text(ONE + '[telemetry]\nmetrics = "127.0.0.1:9464"\n')
    monkeypatch.delitem(sys.modules, "imrnn_vdb.observability.metrics", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    done = CliRunner().invoke(main, ["serve", "--config", str(path), "--check"])
    assert done.exit_code == 1
    assert "pip install 'imrnn-vdb[metrics]'" in done.output
