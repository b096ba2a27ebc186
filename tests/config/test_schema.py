from megatron_r1.config import json_schema
from tests.config.example import Run


def test_descriptions_come_from_the_strings_under_the_attributes():
    schema = json_schema(Run)
    assert schema["properties"]["name"]["description"] == "Name of the run."
    assert schema["$defs"]["Optim"]["properties"]["lr"]["description"] == "Peak learning rate."


def test_a_file_may_name_a_base_and_leave_out_what_it_gives():
    schema = json_schema(Run)
    assert schema["properties"]["base"]["type"] == "string"
    assert "required" not in schema
    assert all("required" not in section for section in schema["$defs"].values())


def test_unknown_keys_are_still_marked():
    schema = json_schema(Run)
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Optim"]["additionalProperties"] is False


def test_each_kind_of_a_union_is_offered():
    stages = json_schema(Run)["properties"]["stages"]["additionalProperties"]
    assert stages == {"anyOf": [{"$ref": "#/$defs/Grpo"}, {"$ref": "#/$defs/Sft"}]}
