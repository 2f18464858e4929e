"""The list of the experiments, by their numbers."""

from tests.scorecard import sources
from tests.scorecard.table import Row

ROWS = {
    row.number: row
    for row in (
        Row(1, sources.row_1),
        Row(2, sources.row_2, limit_s=150),
        Row(3, sources.row_3),
        Row(4, sources.row_4),
        Row(5, sources.row_5, limit_s=240),
        Row(6, sources.row_6, limit_s=180),
        Row(7, sources.row_7),
        Row(8, sources.row_8, limit_s=180),
        Row(9, sources.row_9, limit_s=180),
        Row(10, sources.row_10, limit_s=300),
        Row(11, sources.row_11),
        Row(12, sources.row_12, limit_s=180),
        Row(13, sources.row_13),
    )
}
