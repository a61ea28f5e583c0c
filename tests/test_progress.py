from labkit.utils import progress


def test_plain_lines_give_the_count_a_rate_and_no_control_characters(monkeypatch, capsys):
    monkeypatch.setenv("LABKIT_PROGRESS", "plain")
    monkeypatch.setattr("labkit.utils.SECONDS_BETWEEN_LINES", 0)
    with progress(total=4, desc="reading", unit="image") as bar:
        bar.update(2)
        bar.display()
    out = capsys.readouterr().out
    assert "reading: 2/4 image, " in out and " image/s, " in out and "left" in out
    assert "\r" not in out


def test_the_items_pass_through_whatever_is_shown(monkeypatch, capsys):
    for choice in ("plain", "bar", "none"):
        capsys.readouterr()
        monkeypatch.setenv("LABKIT_PROGRESS", choice)
        assert list(progress(range(5), desc="x")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr() == ("", "")  # of "none"
