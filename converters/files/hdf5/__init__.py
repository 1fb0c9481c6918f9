"""A reader of HDF5 for files of unknown origin: of what ``.nir`` files are made of, and nothing else.

The HDF5 library trusts what it reads: a chunk that inflates to less than it declares leaves the process's own memory
in the array, a damaged heap is walked for ever, and a few bytes ask for gigabytes. So strangers' files are read here,
in Python, where a wrong address is an exception, and where two counters bound what a file can cost
(:class:`~converters.files.hdf5.source.Source`): bytes of memory, and pieces of structure. The library writes, and is
what the tests compare with.

Read are groups, old and new, and data sets of integers, IEEE floats, h5py's booleans and text, contiguous, compact or
in chunks, with gzip, shuffle or no filter: whatever h5py writes of a NIR graph, in any of its ``libver``. Soft and
external links, data in other files, other types and filters, and newer indices of data sets that can grow are refused.
Checksums of newer headers are passed over: they say nothing of whoever wrote them.

Section numbers in these files are those of the `HDF5 file format specification, version 3
<https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html>`_. All numbers are little-endian; addresses and
lengths have 8 bytes.
"""

from __future__ import annotations

from converters.files.hdf5.datasets import value
from converters.files.hdf5.groups import MAX_NAME, links
from converters.files.hdf5.headers import Messages, is_dataset, is_group, messages, root
from converters.files.hdf5.source import Refused, Source

__all__ = ["MAX_NAME", "Messages", "Refused", "Source", "is_dataset", "is_group", "links", "messages", "root", "value"]
