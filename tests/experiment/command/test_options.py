from experiment.command.options import documented


class Described:
    """What it is.

    Not this: it stands before.

    Args:
        one: the first, on
            two lines, with `code`.
        two, three: both.

    Raises:
        UserError: nothing of it.
    """


def test_what_a_docstring_says_of_its_arguments():
    assert documented(Described) == {
        "one": "the first, on two lines, with code.", "two": "both.", "three": "both.",
    }


def test_without_a_docstring_there_is_nothing():
    assert documented(type("Bare", (), {})) == {}
