"""Fingerprints of specifications and keys of texts."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.fingerprints import canonical_json, fingerprint, spec_differences, text_key

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)
SPECS = st.dictionaries(st.sampled_from(["clip_len_s", "mode", "weights", "crop"]), JSON_VALUES, max_size=4)


def test_the_canonical_form_is_fixed_for_ever() -> None:
    spec = {"mode": "clean", "clip_len_s": 1.0, "crop": (224, 224), "mean": [0.1, 1e-08], "ü": None}
    text = '{"clip_len_s":1,"crop":[224,224],"mean":[0.1,1e-08],"mode":"clean","ü":null}'
    assert canonical_json(spec) == text
    assert fingerprint(spec) == hashlib.sha256(text.encode()).hexdigest()


@settings(max_examples=40, deadline=None)
@given(SPECS)
def test_the_order_of_keys_does_not_count(spec: dict[str, Any]) -> None:
    backwards = dict(reversed(list(spec.items())))
    assert fingerprint(spec) == fingerprint(backwards)
    assert spec_differences(spec, backwards) == []


@settings(max_examples=60, deadline=None)
@given(SPECS, SPECS)
def test_equal_fingerprints_mean_no_differences(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert (fingerprint(left) == fingerprint(right)) == (spec_differences(left, right) == [])


def test_one_and_one_point_zero_are_the_same_number_and_true_is_another_thing() -> None:
    assert fingerprint({"clip_len_s": 1}) == fingerprint({"clip_len_s": 1.0})
    assert fingerprint({"clip_len_s": 1}) != fingerprint({"clip_len_s": True})


@pytest.mark.parametrize("key", ["device", "batch_size", "workers", "path"])
def test_what_changes_no_number_is_refused(key: str) -> None:
    with pytest.raises(FeatureError, match=f"spec.resize.{key} does not change a number"):
        fingerprint({"resize": {key: "x"}})


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), b"bytes", {1: 2}, {"a", "b"}, object(), "/home/me/weights.pt"]
)
def test_values_without_a_canonical_form_are_refused(value: Any) -> None:
    with pytest.raises(FeatureError, match=r"spec\.value"):
        fingerprint({"value": value})


def test_differences_name_the_key_and_both_values() -> None:
    found = {"weights": {"name": "openai", "sha256": "aa"}, "mode": "parity", "old": 1}
    expected = {"weights": {"name": "laion", "sha256": "aa"}, "mode": "parity", "crop": [224, 224]}
    assert spec_differences(found, expected) == [
        "crop: found nothing, expected [224, 224]",
        "old: found 1, expected nothing",
        'weights.name: found "openai", expected "laion"',
    ]


def test_a_text_has_one_key_in_every_normal_form() -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert text_key(composed) == text_key(decomposed)
    assert text_key("person") == hashlib.sha256(b"person").hexdigest()[:32]
    assert text_key("person") != text_key("Person")
