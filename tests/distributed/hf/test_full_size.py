import pytest

OFFICIAL = {"deepseek_v3": 671_026_419_200, "qwen_32b": 32_763_876_352, "llama_70b": 70_553_706_496}


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFICIAL)
def test_the_published_shapes_are_covered_and_the_counts_official(hf_one, name):
    found = hf_one["full_size"][name]
    assert found["parameters"] == OFFICIAL[name]
    assert found["table"] == found["parameters"] + found["mtp"]
    assert found["seconds"] < 60


@pytest.mark.slow
def test_the_mtp_module_of_v3_has_its_published_size(hf_one):
    # without its copies of embedding and head, and with the router's bias
    assert hf_one["full_size"]["deepseek_v3"]["mtp"] == 11_610_067_968 + 256
