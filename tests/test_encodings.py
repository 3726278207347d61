"""Tables as Windows in China writes them: GBK, GB18030 and UTF-16."""

import numpy as np
import pytest

from fmalign_jax.data import encodings, tables, taken
from fmalign_jax.data.recordings import label_file

TEXT = "序号,时间,A相电流,B相,C相,备注\n1,0,9100.5,2,3,正常\n2,0.5,9200,4,5,欠烧\n"
VALUES = [[9100.5, 2, 3], [9200, 4, 5]]


def _table(tmp_path, data: bytes) -> tables.Table:
    path = tmp_path / "run.csv"
    path.write_bytes(data)
    return tables.read_table(path)


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("gbk", "; read as GB18030 (GBK)"),
        ("gb2312", "; read as GB18030 (GBK)"),
        ("gb18030", "; read as GB18030 (GBK)"),
        ("utf-16", "; read as UTF-16"),
    ],
)
def test_a_chinese_table_is_read_as_meant(tmp_path, encoding, said):
    table = _table(tmp_path, TEXT.encode(encoding))
    time = table.time_position()
    assert (time, table.channels(time)) == (1, ("序号", "A相电流", "B相", "C相"))
    channels = ("A相电流", "B相", "C相")
    np.testing.assert_array_equal(table.numbers(*channels), VALUES)
    np.testing.assert_array_equal(table.seconds(time), [0, 0.5])
    assert table.texts("备注") == ["正常", "欠烧"]
    line = taken.table(table, time, {"channels": channels})
    assert line == (
        "time '时间' (seconds), channels 'A相电流', 'B相', 'C相'; left out: '序号', "
        f"'备注'{said}"
    )


def test_big_endian_and_characters_of_four_bytes(tmp_path):
    text = "时间,a𠮷\n0,1\n"  # outside GBK
    marked = b"\xfe\xff" + text.encode("utf-16-be")
    for data in (text.encode("gb18030"), marked):
        assert _table(tmp_path, data).columns == ("时间", "a𠮷")


def test_labels_in_chinese(tmp_path):
    path = tmp_path / "run.labels.csv"
    path.write_bytes("备注,标签,时间\n甲,正常,0\n,欠烧,10\n".encode("gbk"))
    table = tables.read_table(path)
    assert label_file.columns(table) == (2, 1)
    assert label_file.numbers(path, ("正常", "欠烧")) == [0, 1]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ("时间,a\n0,1\n".encode("gbk") + b"1,2\xff\n2,3\n", 3),
        # One letter of UTF-8 was cut: as GB18030 the whole would read, as nonsense.
        ("时间,备注\n0,正常\n".encode() + "1,欠烧烧\n".encode()[:-2] + b"\n", 3),
        ("时间,a\n0,1\n".encode("utf-16") + b"\x00\xd8\x0a\x00", 3),
        ("时间,a\n0,1\n".encode("utf-16") + b"1", 3),
    ],
)
def test_wrong_bytes_are_refused_by_line(tmp_path, data, line):
    with pytest.raises(ValueError, match=f"of none of them in line {line};") as caught:
        _table(tmp_path, data)
    assert str(caught.value).startswith(str(tmp_path / "run.csv"))


def test_nothing_is_said_of_utf8():
    assert encodings.said(encodings.UTF8) == encodings.said("") == ""
