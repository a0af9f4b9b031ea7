from functools import partial

from benchmarks.tables import FOLDER, fill, of_folder


def test_the_tables_are_those_of_the_files():
    readme = (FOLDER / "README.md").read_text()
    assert fill(readme, partial(of_folder, folder=FOLDER)) == readme, "python -m benchmarks.tables"


def test_text_around_tables_stays(tmp_path):
    page = "before\n<!-- grpo -->\nold\n<!-- end -->\nafter\n"
    assert (
        fill(page, partial(of_folder, folder=tmp_path))
        == "before\n<!-- grpo -->\n*Not measured yet.*\n<!-- end -->\nafter\n"
    )
