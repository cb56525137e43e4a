from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from factory import make_model, make_modulator, make_space
from imrnn_vdb.checkpoint import CONFIG_FILE, WEIGHTS_FILE, IMRNNModel, shipped_checkpoints
from imrnn_vdb.checkpoint import _read_tensors as read_tensors
from imrnn_vdb.encoders import EncoderConfig
from imrnn_vdb.errors import CheckpointError, InvalidInputError
from imrnn_vdb.files import replace_file


@pytest.fixture
def saved(tmp_path):
    model = IMRNNModel(
        make_space(),
        make_modulator(two_cells=False, shrinkage=0.5),
        EncoderConfig("minilm", query_prefix="query: "),
        {"ndcg@10": 0.5, "wörter": ["é"]},
        active=True,
    )
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def change(folder, **values):
    config = json.loads((folder / CONFIG_FILE).read_text())
    config.update(values)
    (folder / CONFIG_FILE).write_text(json.dumps(config))


def test_what_is_saved_is_loaded(saved):
    model, folder = saved
    loaded = IMRNNModel.from_pretrained(folder)
    assert loaded.space.space_id == model.space.space_id
    assert loaded.model_id == model.model_id
    assert (loaded.encoder, loaded.evidence, loaded.active) == (model.encoder, model.evidence, model.active)
    assert loaded.modulator.config == model.modulator.config
    assert not loaded.modulator.training
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]


def test_saving_twice_gives_the_same_bytes(saved, tmp_path):
    model, folder = saved
    model.save_pretrained(tmp_path / "again")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize("former", [True, False])
@pytest.mark.parametrize("stop", range(3))
def test_a_save_that_is_stopped_leaves_one_model_whole(tmp_path, monkeypatch, former, stop):
    old, new = make_model(), make_model(seed=5)
    if former:
        old.save_pretrained(tmp_path)
    written = []

    def stopping(path, data):
        if len(written) == stop:
            raise KeyboardInterrupt
        written.append(path)
        replace_file(path, data)

    monkeypatch.setattr("imrnn_vdb.checkpoint.replace_file", stopping)
    with pytest.raises(KeyboardInterrupt):
        new.save_pretrained(tmp_path)
    monkeypatch.undo()
    if former or stop == 2:
        assert IMRNNModel.from_pretrained(tmp_path).model_id == (new if stop == 2 else old).model_id
    new.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]


def test_a_model_is_loaded_while_another_one_takes_its_place(saved, monkeypatch):
    _, folder = saved
    other = make_model(seed=5)

    def overtaken(path):
        monkeypatch.undo()
        other.save_pretrained(folder)
        return read_tensors(path)

    monkeypatch.setattr("imrnn_vdb.checkpoint._read_tensors", overtaken)
    assert IMRNNModel.from_pretrained(folder).model_id == other.model_id


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    model = make_model()
    with torch.no_grad():
        model.modulator.query_cell.out.bias.fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"query_cell\.out\.bias holds NaN or infinity: nothing was written"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_model_id_covers_weights_and_settings():
    ids = {make_model(seed=0).model_id, make_model(seed=1).model_id, make_model(seed=0, shrinkage=0.5).model_id}
    assert len(ids) == 3
    assert make_model(seed=0).model_id in ids


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_truncated_weights_are_refused(saved, size):
    _, folder = saved
    data = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(data[:size])
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
        IMRNNModel.from_pretrained(folder)


def test_an_altered_weight_is_found(saved):
    _, folder = saved
    tensors = load_file(folder / WEIGHTS_FILE)
    tensors["modulator.pool"] = tensors["modulator.pool"] + np.float32(1e-3)
    save_file(tensors, folder / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match="was altered: model_id"):
        IMRNNModel.from_pretrained(folder)


def test_an_altered_setting_is_found(saved):
    _, folder = saved
    config = json.loads((folder / CONFIG_FILE).read_text())
    change(folder, modulator={**config["modulator"], "num_steps": 3})
    with pytest.raises(CheckpointError, match="was altered: model_id"):
        IMRNNModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "other"}, "does not belong"),
        ({"format_version": 99}, "upgrade imrnn-vdb"),
        ({"modulator": {"num_factors": 8}}, "other settings"),
        ({"modulator": None}, "does not hold"),
        ({"factor_names": ["a", "a", "b"]}, "differ"),
        ({"factor_names": 7}, "does not hold"),
        ({"factor_names": [0, 1, 2]}, "does not hold"),
        ({"encoder": {"model": "x", "surprise": 1}}, "surprise"),
        ({"active": "yes"}, "'active' must be"),
        ({"evidence": []}, "'evidence' an object"),
    ],
)
def test_a_config_of_another_kind_is_refused(saved, values, message):
    _, folder = saved
    change(folder, **values)
    with pytest.raises(CheckpointError, match=message):
        IMRNNModel.from_pretrained(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_config_that_is_no_json_object_is_refused(saved, content):
    _, folder = saved
    (folder / CONFIG_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        IMRNNModel.from_pretrained(folder)


def test_missing_and_foreign_tensors_are_refused(saved):
    _, folder = saved
    tensors = load_file(folder / WEIGHTS_FILE)
    save_file({**tensors, "stranger": np.zeros(1)}, folder / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match="stranger"):
        IMRNNModel.from_pretrained(folder)
    save_file({name: value for name, value in tensors.items() if name != "modulator.pool"}, folder / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match="pool"):
        IMRNNModel.from_pretrained(folder)
    save_file({**tensors, "modulator.pool": tensors["modulator.pool"][:3]}, folder / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match="pool"):
        IMRNNModel.from_pretrained(folder)


def test_a_pickle_is_never_opened(saved):
    _, folder = saved

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    (folder / WEIGHTS_FILE).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        IMRNNModel.from_pretrained(folder)


@pytest.mark.parametrize("source", ["nonesuch", "./nonesuch", "/nonesuch/at/all", "a/b/c"])
def test_what_is_not_there_is_said_with_what_there_is(source):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .* minilm"):
        IMRNNModel.from_pretrained(source)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_here_is_a_clear_error(saved):
    with pytest.raises(InvalidInputError, match="the device 'cuda' cannot be used here"):
        IMRNNModel.from_pretrained(saved[1], device="cuda")


def test_an_empty_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        IMRNNModel.from_pretrained(tmp_path)


def test_json_that_is_nested_without_end_is_no_checkpoint(tmp_path):
    (tmp_path / CONFIG_FILE).write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="is not readable JSON"):
        IMRNNModel.from_pretrained(tmp_path)


def test_a_hub_repo_that_cannot_be_reached_is_a_clear_error():
    with pytest.raises(CheckpointError, match=r"there is no checkpoint 'someone/something'.*the hub's client says: "):
        IMRNNModel.from_pretrained("someone/something")


def test_a_folder_that_holds_something_else_hides_no_shipped_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pydocs").mkdir()  # as `imrnn-vdb pydocs --out pydocs` makes it
    assert IMRNNModel.from_pretrained("pydocs").space.dim == 384
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):  # a path means what lies there
        IMRNNModel.from_pretrained("./pydocs")
    (tmp_path / "pydocs" / "config.json").write_text('{"model_type": "bert"}')  # an encoder of the same name
    assert IMRNNModel.from_pretrained("pydocs").space.dim == 384
    (tmp_path / "pydocs" / "config.json").unlink()
    IMRNNModel.from_pretrained("minilm").save_pretrained(tmp_path / "pydocs")
    assert IMRNNModel.from_pretrained("pydocs").space.num_factors == 64


@pytest.mark.parametrize("name", shipped_checkpoints())
def test_shipped_checkpoints_load(name):
    model = IMRNNModel.from_pretrained(name)
    assert model.space.dim == 384
    assert model.encoder is not None
    assert {"entity", "numeric", "temporal", "sentiment", "procedural", "definition", "causal", "comparison"} <= set(
        model.space.names
    )
    assert len(model.space.names) >= 12


def test_an_encoder_is_never_replaced_by_a_checkpoint(tmp_path):
    (tmp_path / CONFIG_FILE).write_text('{"model_type": "bert"}')
    (tmp_path / WEIGHTS_FILE).write_bytes(b"an encoder's")
    with pytest.raises(CheckpointError, match=r"config\.json belongs to no checkpoint, and would be lost"):
        make_model().save_pretrained(tmp_path)
    assert (tmp_path / WEIGHTS_FILE).read_bytes() == b"an encoder's"


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_file_that_cannot_be_read_is_no_damaged_one(saved, name):
    _, folder = saved
    (folder / name).unlink()
    (folder / name).mkdir()  # to root, every file is readable
    with pytest.raises(CheckpointError, match=r"cannot be read: .*Is a directory"):
        IMRNNModel.from_pretrained(folder)


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        make_model().save_pretrained(tmp_path / "file" / "model")
