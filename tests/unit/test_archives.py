"""The archives of a model store: found by name and version, broken ones named, copied with other options."""

import json
import zipfile

import pytest
import yaml

from host.archives import by_model, contents, find, min_workers, with_options
from host.ports import HostError

SIGNATURE = {"inputs": {"features": ["load", "hour"]}, "streaming": {"possible": True}}


def archive(store, file, name="one", version="1.0", signature=SIGNATURE):
    with zipfile.ZipFile(store / file, "w") as contents:
        contents.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"configFile": "model-config.yaml"}}))
        contents.writestr("model-config.yaml", "minWorkers: 1\nmaxWorkers: 1\nbatchSize: 64\ncellstate: {threads: 2}\n")
        contents.writestr("signature.json", json.dumps(signature | {"name": name, "version": version}))
    return store / file


def test_archives_are_sorted_by_name_and_by_the_numbers_of_their_versions(tmp_path):
    for file, version in (("a", "1.10"), ("b", "1.9"), ("c", "2.0"), ("d", "1.9.1"), ("e", "1.9-rc")):
        archive(tmp_path, f"{file}.mar", version=version)
    archive(tmp_path, "z.mar", name="another")
    assert [found.address for found in find(tmp_path)] == ["another/1.0", "one/1.9-rc", "one/1.9", "one/1.9.1", "one/1.10", "one/2.0"]
    archive(tmp_path, ".hidden.mar", version="3.0")
    assert [[found.version for found in versions] for versions in by_model(find(tmp_path))] == [
        ["1.0"],
        ["1.9-rc", "1.9", "1.9.1", "1.10", "2.0"],
    ]


@pytest.mark.parametrize(
    ("signature", "check"),
    [
        (SIGNATURE, {"inputs": [[0.0, 0.0]], "session": {"id": "cellstate-health-check", "step": 0}, "commit": False}),
        ({"inputs": {"vocabulary": 9}, "streaming": {"possible": False}}, {"inputs": [0]}),
    ],
    ids=["streams", "does not stream"],
)
def test_the_health_check_needs_the_session_store_where_the_model_streams(tmp_path, signature, check):
    archive(tmp_path, "one.mar", signature=signature)
    [found] = find(tmp_path)
    assert found.health_check() == check


def flip(path):
    """Change one byte of what the archive holds."""
    with zipfile.ZipFile(path) as contents:
        offset = contents.getinfo("signature.json").header_offset + len("signature.json") + 40
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def without(path, name):
    """Remove a file from what the archive holds."""
    with zipfile.ZipFile(path) as whole:
        kept = {entry.filename: whole.read(entry) for entry in whole.infolist() if entry.filename != name}
    with zipfile.ZipFile(path, "w") as rest:
        for entry, content in kept.items():
            rest.writestr(entry, content)


BROKEN = {  # what was done to an archive, and what is said of it
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "a text": (lambda path: path.write_text("a model\n"), "it is no zip file"),
    "half copied": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "it is cut off"),
    "an empty zip": (lambda path: zipfile.ZipFile(path, "w").close(), "There is no item named 'MAR-INF/MANIFEST.json' in the archive"),
    "no manifest": (lambda path: without(path, "MAR-INF/MANIFEST.json"), "There is no item named 'MAR-INF/MANIFEST.json' in the archive"),
    "no signature": (lambda path: without(path, "signature.json"), "There is no item named 'signature.json' in the archive"),
    "a signature that is none": (lambda path: archive(path.parent, path.name, signature={"inputs": 3}), "its signature has no 'streaming'"),
    "a damaged file inside": (flip, ""),
    "a name that is a path": (lambda path: archive(path.parent, path.name, name="../one"), "ValueError: '../one/1.0' cannot be addressed"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "it is a folder"),
}


@pytest.mark.parametrize(("damage", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_an_archive_that_cannot_be_read_is_named_and_left_out_unless_none_may_be(tmp_path, damage, reason):
    archive(tmp_path, "good.mar", name="good")
    damage(archive(tmp_path, "broken.mar"))
    skipped = []
    assert [found.name for found in find(tmp_path, skipped.append)] == ["good"]
    [message] = skipped
    assert message.startswith(f"{tmp_path / 'broken.mar'} cannot be read as an archive ({reason}")
    with pytest.raises(HostError, match=r"broken\.mar cannot be read"):
        find(tmp_path)
    (tmp_path / "good.mar").unlink()
    skipped.clear()
    with pytest.raises(FileNotFoundError, match=r"^none of the 1 archives in \S+ can be served$"):
        find(tmp_path, skipped.append)
    assert skipped == [message]


def test_an_archive_that_would_answer_without_a_key_is_left_out_where_keys_are_asked_for(tmp_path):
    archive(tmp_path, "old.mar", name="old")
    with zipfile.ZipFile(archive(tmp_path, "new.mar", name="new"), "a") as contents:
        contents.writestr("handlers/keys.py", "")
    skipped = []
    assert [found.name for found in find(tmp_path, skipped.append, with_keys=True)] == ["new"]
    assert skipped == [
        f"{tmp_path / 'old.mar'} was built by a release without API keys: build it again with `python -m export build`, or use --no-auth"
    ]
    assert len(find(tmp_path)) == 2


def test_one_version_in_two_archives_is_refused(tmp_path):
    archive(tmp_path, "one.mar")
    archive(tmp_path, "copy.mar")
    with pytest.raises(HostError, match=r"copy\.mar and one\.mar are both version 1\.0 of one: remove one of them"):
        find(tmp_path, lambda message: None)


def test_a_store_without_archives_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no \.mar archive"):
        find(tmp_path)


def test_a_copy_has_other_options_and_all_else(tmp_path):
    original = archive(tmp_path, "one.mar")
    (tmp_path / "copies").mkdir()
    [found] = find(tmp_path)
    copy = with_options(found, tmp_path / "copies" / "two.mar", {"minWorkers": 2, "batchSize": 8, "maxBatchDelay": 3})
    assert (copy.path.name, copy.signature) == ("two.mar", found.signature)
    assert (min_workers(found), min_workers(copy)) == (1, 2)
    assert contents(found) == contents(copy), "but for the model configuration"
    with zipfile.ZipFile(original) as one, zipfile.ZipFile(copy.path) as other:
        assert one.namelist() == other.namelist()
        assert yaml.safe_load(other.read("model-config.yaml")) == {
            "minWorkers": 2, "maxWorkers": 1, "batchSize": 8, "maxBatchDelay": 3, "cellstate": {"threads": 2},
        }  # fmt: skip
        assert one.read("signature.json") == other.read("signature.json")
