"""A heatmap panel as a picture: time across, buckets upwards, the count as a shade: the square root, as the panels' exponent
says, on Viridis."""

import struct
import zlib

import numpy

WIDTH, HEIGHT = 6, 14  # pixels of a cell
VIRIDIS = [(68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141), (39, 173, 129), (92, 200, 99), (170, 220, 50),
           (253, 231, 37)]


def shades(counts, most):
    return numpy.round(255 * numpy.sqrt(counts / most)).astype(int)


def picture(counts):
    """`counts`: buckets by times, lowest bucket first. An 8-bit PNG with a palette."""
    pixels = numpy.kron(shades(counts, counts.max())[::-1], numpy.ones((HEIGHT, WIDTH), int)).astype(numpy.uint8)
    anchors = numpy.linspace(0, 255, len(VIRIDIS))
    palette = numpy.stack([numpy.interp(numpy.arange(256), anchors, channel) for channel in zip(*VIRIDIS)], axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 3, 0, 0, 0)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"PLTE", palette.round().astype(numpy.uint8).tobytes()) +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def cells(drawn):
    """Shades by bucket and time of a picture that was read back."""
    return drawn[HEIGHT // 2::HEIGHT, WIDTH // 2::WIDTH][::-1]
