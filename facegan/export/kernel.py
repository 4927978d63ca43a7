"""The page's one inner loop as WebAssembly with SIMD, put together from its text by a small assembler.

A matrix product whose left side is read in place from a map, `c[y, x] = f(sum over s, k of a[y, x, s, k] b[s, k])`,
for a block of four neighbouring pixels and eight channels at a time, f being bias, LeakyReLU, scale and shift. A
convolution is this with s as the row of its kernel, a dense layer the same for one pixel. `engine.js` has the loop
in plain JavaScript for browsers without SIMD.
"""

# Addresses and strides in bytes, and counts.
PARAMETERS = (
    "a",
    "b",
    "c",
    "v",
    "rows",
    "m",
    "panels",
    "segs",
    "klen",
    "a_row",
    "a_pix",
    "a_seg",
    "c_row",
    "c_pix",
)
INTEGERS = ("x", "y", "k", "s", "q", "skip", "ar", "cr", "p0", "p1", "p2", "p3")
VECTORS = ("w0", "w1", "t", "sl", *(f"s{row}{half}" for row in range(4) for half in range(2)))
LOCALS = {name: k for k, name in enumerate([*PARAMETERS, "slope", *INTEGERS, *VECTORS])}

# Instructions by the names used below, after the WebAssembly core specification 2.0, sections 5.4.1 to 5.4.8.
PLAIN = {
    "block": b"\x02\x40",
    "loop": b"\x03\x40",
    "if": b"\x04\x40",
    "else": b"\x05",
    "end": b"\x0b",
    "eqz": b"\x45",
    "lt": b"\x48",
    "ge": b"\x4e",
    "+": b"\x6a",
    "-": b"\x6b",
    "*": b"\x6c",
    "v.of": b"\xfd\x13",
    "v.+": b"\xfd\xe4\x01",
    "v.*": b"\xfd\xe6\x01",
    "v.max": b"\xfd\xe9\x01",
}
OF_LOCAL = {"get": b"\x20", "set": b"\x21", "tee": b"\x22"}
OF_NUMBER = {"br": b"\x0c", "br_if": b"\x0d", "const": b"\x41"}
OF_MEMORY = {"v.load": b"\xfd\x00", "v.splat": b"\xfd\x09", "v.store": b"\xfd\x0b"}
I32, F32, V128 = b"\x7f", b"\x7d", b"\x7b"


def module() -> bytes:
    """The module: imports `env.memory`, exports `gemm`."""
    kinds = I32 * len(PARAMETERS) + F32
    body = _counted(_groups((len(INTEGERS), I32), (len(VECTORS), V128)) + assemble(_gemm()) + PLAIN["end"])
    sections = (
        (1, b"\x01\x60" + _counted(kinds) + b"\x00"),  # one type: these parameters, no result
        (2, b"\x01" + _counted(b"env") + _counted(b"memory") + b"\x02\x00\x01"),
        (3, b"\x01\x00"),
        (7, b"\x01" + _counted(b"gemm") + b"\x00\x00"),
        (10, b"\x01" + body),
    )
    return b"\x00asm\x01\x00\x00\x00" + b"".join(bytes([number]) + _counted(part) for number, part in sections)


def assemble(text: str) -> bytes:
    """Instructions as bytes; each is a word, followed by its local, number or offset where it takes one."""
    words, code = iter(text.split()), bytearray()
    for word in words:
        if word in OF_LOCAL:
            code += OF_LOCAL[word] + _leb(LOCALS[next(words)])
        elif word in OF_NUMBER:
            code += OF_NUMBER[word] + _leb(int(next(words)))  # all below 64: signed and unsigned are written alike
        elif word in OF_MEMORY:
            code += OF_MEMORY[word] + b"\x02" + _leb(int(next(words)))  # aligned to 4 bytes
        else:
            code += PLAIN[word]
    return bytes(code)


def _gemm() -> str:
    return f"""
    get slope v.of set sl
    get a_seg get klen const 4 * - set skip
    loop  get a set ar  get c set cr  get rows set y
      loop  const 0 set x
        block loop
          get m get x const 4 + lt br_if 1
          {_block(4)}
          get x const 4 + set x  br 0
        end end
        get x get m lt if
          get m const 4 ge if
            get m const 4 - set x  {_block(4)}
          else
            loop  {_block(1)}  get x const 1 + tee x get m lt br_if 0  end
          end
        end
        get ar get a_row + set ar  get cr get c_row + set cr
        get y const 1 - tee y br_if 0
      end
      get b get segs get klen * const 32 * + set b
      get c const 32 + set c  get v const 48 + const 48 + set v
      get panels const 1 - tee panels br_if 0
    end"""


def _block(rows: int) -> str:
    """`rows` pixels from x on, eight channels; sums start at the bias."""
    every = range(rows)
    start = "get ar get x get a_pix * + set p0 " + " ".join(
        f"get p{r - 1} get a_pix + set p{r}" for r in every if r
    )
    biases = " ".join(f"get v v.load {16 * half} set s{r}{half}" for r in every for half in (0, 1))
    products = " ".join(
        f"get p{r} v.splat 0 set t get p{r} const 4 + set p{r} "
        f"get t get w0 v.* get s{r}0 v.+ set s{r}0 get t get w1 v.* get s{r}1 v.+ set s{r}1"
        for r in every
    )
    onward = " ".join(f"get p{r} get skip + set p{r}" for r in every)
    results = " ".join(
        f"get q get s{r}{half} get s{r}{half} get sl v.* v.max"
        f" get v v.load {32 + 16 * half} v.* get v v.load {64 + 16 * half} v.+ v.store {16 * half}"
        + (" get q get c_pix + set q" if half else "")
        for r in every
        for half in (0, 1)
    )
    return f"""
    {start} get b set q get segs set s {biases}
    loop  get klen set k
      loop
        get q v.load 0 set w0 get q v.load 16 set w1 {products}
        get q const 32 + set q get k const 1 - tee k br_if 0
      end
      {onward} get s const 1 - tee s br_if 0
    end
    get cr get x get c_pix * + set q {results}"""


def _leb(value: int) -> bytes:
    """LEB128, 7 bits a byte, lowest first."""
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _leb(rest) if rest else bytes([low])


def _counted(part: bytes) -> bytes:
    return _leb(len(part)) + part


def _groups(*groups: tuple[int, bytes]) -> bytes:
    return _leb(len(groups)) + b"".join(_leb(count) + kind for count, kind in groups)
