"""The checker that enforces annotations under pytest: beartype, with int welcome as float."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
