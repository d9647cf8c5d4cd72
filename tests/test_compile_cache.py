"""Compiled programs are run when they are found: nobody else may put any there."""

import os

import jax
import pytest

from jaxae.devices import compile_cache
from jaxae.errors import UserError


def mode(folder):
    return folder.stat().st_mode & 0o777


def refused(folder):
    with pytest.raises(UserError) as caught:
        compile_cache.make_private(folder)
    assert "name a folder in JAXAE_CACHE_DIR" in str(caught.value)
    return str(caught.value)


def test_a_private_folder_is_made_with_its_parents(tmp_path):
    compile_cache.make_private(tmp_path / "a" / "b")
    assert mode(tmp_path / "a" / "b") == 0o700
    compile_cache.make_private(tmp_path / "a" / "b")


@pytest.mark.parametrize("found", [0o755, 0o750, 0o701, 0o700])
def test_an_own_folder_is_taken_back_from_the_eyes_of_others(found, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own").chmod(found)
    compile_cache.make_private(tmp_path / "own")
    assert mode(tmp_path / "own") == 0o700


@pytest.mark.parametrize("found", [0o777, 0o775, 0o702, 0o1777])
def test_a_folder_that_others_may_have_written_to_is_refused(found, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own").chmod(found)
    assert f"other users can write to {tmp_path / 'own'}; remove it" in refused(tmp_path / "own")


def test_a_folder_that_others_may_replace_is_refused_unless_its_parent_is_sticky(tmp_path):
    (tmp_path / "all" / "mine").mkdir(parents=True)
    (tmp_path / "all").chmod(0o777)
    assert f"{tmp_path / 'all'} may be written by everyone" in refused(tmp_path / "all" / "mine")
    (tmp_path / "link").symlink_to(tmp_path / "all" / "mine")
    assert f"{tmp_path / 'all'} may be written by everyone" in refused(tmp_path / "link")
    (tmp_path / "all").chmod(0o1777)
    compile_cache.make_private(tmp_path / "all" / "mine")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_a_folder_of_another_user_is_refused(tmp_path):
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    assert f"{tmp_path / 'theirs'} belongs to another user (number 12345)" in refused(
        tmp_path / "theirs"
    )


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of its own, and JAX as it was afterwards."""
    monkeypatch.setenv("JAXAE_CACHE_DIR", str(tmp_path / "cache"))
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in (*names, "jax_enable_compilation_cache")}
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "cache"
    for name, value in before.items():
        jax.config.update(name, value)


def test_compiled_programs_are_kept_where_only_their_user_can_write(cache):
    compile_cache.enable()
    assert jax.config.jax_compilation_cache_dir == str(cache / "compiled")
    assert mode(cache / "compiled") == 0o700


def test_a_cache_that_others_may_write_to_is_named_with_the_ways_out(cache):
    (cache / "compiled").mkdir(parents=True)
    (cache / "compiled").chmod(0o777)
    with pytest.raises(UserError) as caught:
        compile_cache.enable()
    for word in (str(cache / "compiled"), "JAXAE_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE=0"):
        assert word in str(caught.value)
    jax.config.update("jax_enable_compilation_cache", False)
    compile_cache.enable()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_cache_that_cannot_be_made_stops_no_run(cache, capsys):
    cache.write_text("mine")
    compile_cache.enable()
    assert jax.config.jax_compilation_cache_dir is None
    out, err = capsys.readouterr()
    assert "compiled programs are not kept in" in out
    assert "JAXAE_CACHE_DIR" in out
    assert err == ""


def test_where_jax_was_told_to_keep_programs_is_nobodys_business(cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "elsewhere"))
    compile_cache.enable()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "elsewhere")
    assert not cache.exists()
