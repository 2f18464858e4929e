"""The platform in `[server.inference]`: an address, and a token that nobody sees."""

import pytest
from pydantic import ValidationError

from pipeline.config.settings import InferenceConfig

ADDRESS = "https://app.supervisely.com"


def test_there_is_none_unless_it_is_named() -> None:
    assert InferenceConfig().supervisely_platform is None


def test_a_slash_at_the_end_is_no_part_of_it() -> None:
    assert InferenceConfig(supervisely_platform=ADDRESS + "/").supervisely_platform == ADDRESS


@pytest.mark.parametrize(
    "address",
    ["", "app.supervisely.com", "ftp://host", "http://", "http://[", "http://a b", "http://h:99999", "http://h\n/x"],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValidationError):
        InferenceConfig(supervisely_platform=address)


@pytest.mark.parametrize(
    "address", ["https://me:secret@host", "https://host/?api_token=secret", "https://host/#secret"]
)
def test_a_secret_does_not_belong_into_the_address(address: str) -> None:
    with pytest.raises(ValidationError, match="supervisely_token"):
        InferenceConfig(supervisely_platform=address)


def test_the_token_is_not_shown_and_wants_a_platform() -> None:
    config = InferenceConfig.model_validate({"supervisely_platform": ADDRESS, "supervisely_token": "s" * 128})
    assert "ssss" not in repr(config)
    with pytest.raises(ValidationError, match="supervisely_platform"):
        InferenceConfig.model_validate({"supervisely_token": "s" * 128})


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ümlaut"])
def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    with pytest.raises(ValidationError, match="header"):
        InferenceConfig.model_validate({"supervisely_platform": ADDRESS, "supervisely_token": token})
