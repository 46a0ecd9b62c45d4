"""Pictures of a machine's screen: PNG files, what VNC shows, and the text in a picture of text mode."""
import glob
import socket
import struct
import zlib


class Picture:
    """width, height, and rows of bytes: red, green and blue of each pixel."""

    def __init__(self, width, height, rows):
        self.width, self.height, self.rows = width, height, rows

    def pixel(self, x, y):
        return tuple(self.rows[y][3 * x:3 * x + 3])

    def lit(self):
        """How many pixels are not black."""
        return sum(sum(1 for x in range(0, len(row), 3) if row[x] or row[x + 1] or row[x + 2]) for row in self.rows)


def unfilter(kind, row, above):
    """PNG, "Filter types for filter method 0", three bytes a pixel."""
    for i in range(len(row)):
        left, up = row[i - 3] if i >= 3 else 0, above[i]
        corner = above[i - 3] if i >= 3 else 0
        if kind == 1:
            add = left
        elif kind == 2:
            add = up
        elif kind == 3:
            add = (left + up) // 2
        else:
            guess = left + up - corner
            near = min((abs(guess - left), 0), (abs(guess - up), 1), (abs(guess - corner), 2))[1]
            add = (left, up, corner)[near]
        row[i] = row[i] + add & 255


def read_png(path):
    data = open(path, "rb").read()
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"{path} is no PNG file")
    at, packed = 8, b""
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + size]
        if zlib.crc32(kind + body) != struct.unpack(">I", data[at + 8 + size:at + 12 + size])[0]:
            raise ValueError(f"{path}: a bad checksum")
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
        elif kind == b"IDAT":
            packed += body
        at += size + 12
    if (depth, colour) != (8, 2):
        raise ValueError(f"{path}: depth {depth}, colour type {colour}")
    plain, step = zlib.decompress(packed), 3 * width + 1
    rows, above = [], bytearray(3 * width)
    for y in range(height):
        row = bytearray(plain[y * step + 1:(y + 1) * step])
        if plain[y * step]:
            unfilter(plain[y * step], row, above)
        rows.append(bytes(row))
        above = row
    return Picture(width, height, rows)


def fonts():
    """The 8 x 16 font of a video BIOS: {glyph: character}."""
    for path in glob.glob("/usr/share/seabios/vgabios-stdvga.bin") + glob.glob("/usr/share/vgabios/vgabios.bin"):
        rom = open(path, "rb").read()
        at = rom.find(b"\xff" * 16)  # DBh is full, NUL and FFh are empty
        while at >= 0:
            start = at - 0xdb * 16
            if start >= 0 and not any(rom[start:start + 16]) and not any(rom[start + 255 * 16:start + 256 * 16]):
                font = rom[start:start + 256 * 16]
                return {font[16 * c:16 * c + 16]: chr(c) for c in range(126, 31, -1)}
            at = rom.find(b"\xff" * 16, at + 1)
    return {}


def text_of(picture, font):
    """The lines of an 80 x 25 text screen; what is no ASCII character is '?'."""
    lines = []
    for y in range(0, picture.height - 15, 16):
        line = ""
        for x in range(0, picture.width - 8, 9):
            background = picture.pixel(x + 8, y)
            glyph = bytes(sum((picture.pixel(x + i, y + j) != background) << 7 - i for i in range(8)) for j in range(16))
            line += font.get(glyph, "?")
        lines.append(line.rstrip())
    return lines


class Viewer:
    """A VNC viewer (RFC 6143) on a UNIX socket: no security, raw pixels."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.read(12)
        self.socket.sendall(b"RFB 003.008\n")
        self.read(self.read(1)[0])
        self.socket.sendall(b"\1")
        if self.read(4) != b"\0\0\0\0":
            raise ValueError("refused")
        self.socket.sendall(b"\1")
        self.width, self.height = struct.unpack(">HH", self.read(4))
        self.read(16)
        self.read(struct.unpack(">I", self.read(4))[0])
        # Blue in the low byte; raw pixels.
        self.socket.sendall(struct.pack(">B3xBBBBHHHBBB3x", 0, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0))
        self.socket.sendall(struct.pack(">BxHi", 2, 1, 0))

    def read(self, size):
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise EOFError("the server hung up")
            data += part
        return data

    def key(self, keysym, down):
        self.socket.sendall(struct.pack(">BBxxI", 4, down, keysym))

    def type(self, text):
        for character in text:
            self.key(0xff0d if character == "\n" else ord(character), 1)
            self.key(0xff0d if character == "\n" else ord(character), 0)

    def pointer(self, x, y, buttons=0):
        self.socket.sendall(struct.pack(">BBHH", 5, buttons, x, y))

    def picture(self):
        rows = [bytearray(3 * self.width) for _ in range(self.height)]
        self.socket.sendall(struct.pack(">BBHHHH", 3, 0, 0, 0, self.width, self.height))
        kind, count = struct.unpack(">BxH", self.read(4))
        if kind:
            raise ValueError(f"message {kind}")
        for _ in range(count):
            x, y, width, height, encoding = struct.unpack(">HHHHi", self.read(12))
            if encoding:
                raise ValueError(f"encoding {encoding}")
            data = self.read(4 * width * height)
            for line in range(height):
                part = data[4 * width * line:4 * width * (line + 1)]
                row = rows[y + line]
                row[3 * x:3 * (x + width):3] = part[2::4]
                row[3 * x + 1:3 * (x + width):3] = part[1::4]
                row[3 * x + 2:3 * (x + width):3] = part[0::4]
        return Picture(self.width, self.height, [bytes(row) for row in rows])
