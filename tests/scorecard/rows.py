"""The list of the experiments, by their numbers."""

from tests.scorecard import backends, fetching, hostile, leaks, operation, remote, security, sources
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
        Row(14, remote.row_14),
        Row(15, remote.row_15),
        Row(16, remote.row_16),
        Row(17, backends.row_17),
        Row(18, backends.row_18, limit_s=600, alone=True),
        Row(28, operation.row_28, limit_s=180, alone=True),
        Row(29, operation.row_29),
        Row(30, operation.row_30),
        Row(31, operation.row_31),
        Row(32, leaks.row_32, limit_s=3600, alone=True),
        Row(33, operation.row_33, limit_s=180, alone=True),
        Row(34, leaks.row_34, limit_s=180, alone=True),
        Row(35, backends.row_35, limit_s=600, alone=True),
        Row(36, operation.row_36, limit_s=180),
        Row(37, fetching.row_37),
        Row(38, hostile.row_38, alone=True),
        Row(39, hostile.row_39, limit_s=240, alone=True),
        Row(40, security.row_40, limit_s=180),
        Row(41, security.row_41, limit_s=180),
        Row(44, security.row_44),
        Row(46, hostile.row_46, limit_s=900, alone=True),
    )
}
