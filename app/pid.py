"""The registry pseudonym (pid): ten random symbols and two check symbols over GF(32).

Alphabet: Crockford base 32. The field is GF(2)[x] / (x^5 + x^2 + 1) with generator a = x = 2. For data symbols
d_1..d_10 the check symbols are c1 = XOR d_i * a^i and c2 = XOR d_i * a^(2i). Any two columns of the parity
matrix are independent, so the code has distance 3: each single and double error, swap and jump is found.
"""

import secrets

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
DATA_SYMBOLS = 10
_MISREAD = str.maketrans({"O": "0", "I": "1", "L": "1"})
_SYMBOLS = frozenset(ALPHABET)
_VALUE = {symbol: value for value, symbol in enumerate(ALPHABET)}


class PidFormat(ValueError):
    """The text is not twelve symbols of the alphabet."""


class PidChecksum(ValueError):
    """The check symbols do not fit the data symbols: the pid was mistyped."""


def _multiply(left: int, right: int) -> int:
    product = 0
    while right:
        if right & 1:
            product ^= left
        left <<= 1
        if left & 0b100000:
            left ^= 0b100101
        right >>= 1
    return product


def _powers() -> list[int]:
    powers = [1]
    while len(powers) <= 2 * DATA_SYMBOLS:
        powers.append(_multiply(powers[-1], 2))
    return powers


def _column(first: int, second: int) -> dict[str, int]:
    """What each symbol adds to the two check symbols at one position: c1 in the upper five bits, c2 in the lower."""
    return {symbol: _multiply(value, first) << 5 | _multiply(value, second) for symbol, value in _VALUE.items()}


_POWER = _powers()
_COLUMNS = [_column(_POWER[position], _POWER[2 * position]) for position in range(1, DATA_SYMBOLS + 1)]


def _check_symbols(data: str) -> str:
    both = 0
    for column, symbol in zip(_COLUMNS, data, strict=True):
        both ^= column[symbol]
    return ALPHABET[both >> 5] + ALPHABET[both & 31]


def complete(data: str) -> str:
    """`data` (ten symbols) with its two check symbols."""
    return data + _check_symbols(data)


def draw() -> str:
    """A new pid: 50 bits of the operating system's randomness; no site, order or date inside."""
    number = secrets.randbits(50)
    return complete("".join(ALPHABET[(number >> shift) & 31] for shift in range(45, -1, -5)))


def normalise(text: str) -> str:
    """The twelve symbols of a pid however it was typed: case, spaces, hyphens, O for 0, I or L for 1.

    Raises PidFormat when it is not twelve symbols of the alphabet, PidChecksum when the check fails.
    """
    symbols = text.upper().replace("-", "").replace(" ", "").translate(_MISREAD)
    if len(symbols) != DATA_SYMBOLS + 2 or not _SYMBOLS.issuperset(symbols):
        raise PidFormat
    if complete(symbols[:DATA_SYMBOLS]) != symbols:
        raise PidChecksum
    return symbols


def display(pid: str) -> str:
    """In groups of four: `7K3F-9TQ2-XMEE`."""
    return "-".join((pid[:4], pid[4:8], pid[8:])) if "-" not in pid else pid
