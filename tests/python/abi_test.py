"""The declarations of tools/python/moba against moba.h: structs field by field, functions by the number
and kind of their arguments.

    PYTHONPATH=tools/python python3 tests/python/abi_test.py engine/include/moba/moba.h
"""

import ctypes
import re
import sys
import unittest
from pathlib import Path

from moba import _library

HEADER = re.sub(r"/\*.*?\*/", " ", Path(sys.argv.pop(1)).read_text(), flags=re.S)

STRUCTS = {
    "moba_info": _library.Info,
    "moba_stats": _library.Stats,
    "moba_latency": _library.Latency,
    "moba_chat_options": _library.ChatOptions,
    "moba_metrics": _library.Metrics,
    "moba_top_logprob": _library.TopLogprob,
    "moba_logprob": _library.Logprob,
    "moba_token": _library.Token,
}

PLAIN = {
    "size_t": ctypes.c_size_t,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "bool": ctypes.c_bool,
}


def is_pointer(kind):
    return kind in (ctypes.c_void_p, ctypes.c_char_p) or hasattr(kind, "contents")


class AbiTest(unittest.TestCase):
    def check_kind(self, where, c_type, kind):
        if "*" in c_type:
            self.assertTrue(is_pointer(kind), where)
        else:
            self.assertIs(kind, PLAIN[c_type.replace("const", "").strip()], where)

    def test_structs(self):
        for name, structure in STRUCTS.items():
            body = re.search(r"typedef struct %s \{(.*?)\} %s;" % (name, name), HEADER, re.S).group(1)
            fields = re.findall(r"([\w\s*]+?)(\w+);", body)
            self.assertEqual([f[1] for f in fields], [f[0] for f in structure._fields_], name)
            for (c_type, field), (_, kind) in zip(fields, structure._fields_):
                self.check_kind(f"{name}.{field}", c_type, kind)

    def test_functions(self):
        for name, kinds in _library._STATUS_FUNCTIONS.items():
            found = re.search(r"MOBA_API moba_status %s\(([^)]*)\)" % name, HEADER)
            self.assertIsNotNone(found, name)
            arguments = [a.strip() for a in found.group(1).split(",")]
            self.assertEqual(len(arguments), len(kinds), name)
            for argument, kind in zip(arguments, kinds):
                c_type = re.sub(r"\w+$", "", argument)
                self.check_kind(f"{name}({argument})", c_type, kind)
        for name in _library._VOID_FUNCTIONS:
            self.assertRegex(HEADER, r"MOBA_API void %s\(\w+\* \w+\)" % name)

    def test_numbers(self):
        numbers = dict(re.findall(r"#define MOBA_(\w+) \(\(moba_status\)(\d+)\)", HEADER))
        self.assertEqual(len(numbers), 8)
        for name, value in numbers.items():
            self.assertEqual(getattr(_library, name), int(value), name)
        version = re.search(r"#define MOBA_ABI_VERSION (\d+)", HEADER).group(1)
        self.assertEqual(_library.ABI_VERSION, int(version))


if __name__ == "__main__":
    unittest.main()
