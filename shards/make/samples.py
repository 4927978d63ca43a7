"""Samples of anybody's tars as webdataset makes them, and the split that a tar's name says."""

import re
from collections.abc import Iterator
from itertools import groupby

from shards.format.tar import Member

NAME_AND_EXTENSION = re.compile(r"((?:.*/|)[^./][^./]*)[.]([^/]*)", re.DOTALL)  # webdataset's rule
SPLIT_WORDS = dict.fromkeys(("train", "training"), "train") | dict.fromkeys(("val", "valid", "validation"), "val")
SPLIT_WORDS |= dict.fromkeys(("test", "testing"), "test")
Group = list[tuple[str, Member]]  # the members of a sample, by extension in small letters


def samples(entries: Iterator[Member]) -> Iterator[tuple[str, Group]]:
    """Keys and members: neighbours whose names agree up to the first dot of the file name."""
    matched = ((NAME_AND_EXTENSION.fullmatch(entry.name), entry) for entry in entries)
    named = ((match[1], match[2].lower(), entry) for match, entry in matched if match)
    for key, group in groupby(named, key=lambda each: each[0]):
        yield key, [(extension, entry) for _, extension, entry in group]


def split_of(name: str) -> str:
    """The split that the last of the words train, val and test in a tar's name says; train without one."""
    words = [SPLIT_WORDS[word] for word in re.findall("[a-z]+", name.lower()) if word in SPLIT_WORDS]
    return words[-1] if words else "train"
