from megatron_r1.data.split import content_id, split_of


def test_one_problem_in_ten_is_held_out():
    held_out = sum(split_of(content_id(str(i))) == "held_out" for i in range(10_000))
    assert 900 < held_out < 1100  # 1000 expected, standard deviation 30


def test_the_id_is_the_md5_of_the_content_and_a_suffix_does_not_move_it():
    assert content_id("abc") == "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321, A.5
    assert int("900150983cd24fb0d6963f7d28e17f72", 16) % 10 == 0
    assert split_of(content_id("abc") + "-zh") == "held_out"
