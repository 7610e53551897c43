"""The pictures of GET /v1/analyses/{id}/plane.png against plots made here from the exported eigenvalues: nothing of ours in
the reader of the PNG, nor in what becomes of each eigenvalue."""

import math
import struct
import unittest
import urllib.error
import urllib.request
import zlib

import numpy
import safetensors.numpy

import harness
from faults_test import demo
from flow_test import spec

SIZE, DENSEST, AXIS, CIRCLE = 561, 253, 254, 255


def read_png(data):
    """Palette indices of an 8-bit PNG, from its specification."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    position, packed = 8, b""
    while position < len(data):
        length, kind = struct.unpack(">I4s", data[position:position + 8])
        body = data[position + 8:position + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", data[position + 8 + length:position + 12 + length])[0]
        if kind == b"IHDR":
            width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", body)
            assert (depth, colour) == (8, 3), "one byte a pixel, with a palette"
        elif kind == b"PLTE":
            assert length == 3 * 256
        elif kind == b"IDAT":
            packed += body
        position += 12 + length
    raw = numpy.frombuffer(zlib.decompress(packed), numpy.uint8).reshape(height, width + 1).astype(int)
    rows = numpy.zeros((height, width), int)
    for y in range(height):
        kind, line, above = raw[y, 0], raw[y, 1:], rows[y - 1] if y else numpy.zeros(width, int)
        for x in range(width):
            left, up, corner = rows[y, x - 1] if x else 0, above[x], above[x - 1] if x else 0
            guess = left + up - corner
            paeth = min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))[2]
            rows[y, x] = (line[x] + (0, left, up, (left + up) // 2, paeth)[kind]) % 256
    return rows


def levels(density):
    least, greatest = density[density > 0].min(), density.max()
    span = math.log(greatest / least)
    scaled = numpy.log(numpy.where(density > 0, density, least) / least) / span if span > 0 else numpy.ones_like(density)
    return numpy.where(density > 0, 1 + numpy.round(scaled * 252), 0)


class PlaneTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = harness.Daemon()
        cls.daemon.wait_idle()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()

    def analyze(self, what):
        from eigsvc.v1 import analysis_service_pb2 as rpc
        *_, last = self.daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=what), timeout=200)
        chunks = self.daemon.analysis.ReadEigenvalues(rpc.ReadEigenvaluesRequest(analysis_id=last.event.analysis_id), timeout=60)
        tensors = safetensors.numpy.load(b"".join(chunk.chunk for chunk in chunks))
        logs, phases = [], []
        for name, values in tensors.items():
            if not name.endswith(".log_magnitude"):
                continue
            phase = tensors.get(name.replace(".log_magnitude", ".phase"), numpy.zeros_like(values))
            known = ~numpy.isnan(values)
            logs.append(values[known].astype(numpy.float64))
            phases.append(phase[known].astype(numpy.float64))
        logs, phases = numpy.concatenate(logs), numpy.concatenate(phases)
        self.assertEqual(len(logs), last.event.result.eigenvalues)
        return last.event.analysis_id, logs, phases

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.daemon.http_address}{path}", timeout=20) as answer:
            self.assertEqual(answer.headers["Content-Type"], "image/png")
            return answer.read()

    def rotating(self):
        """Of RetNet with its rotation in the state: γ e^{±iθ}, of which one of each pair is exported."""
        from eigsvc.v1 import checkpoint_pb2
        analysis_id, logs, phases = self.analyze(spec(checkpoint_pb2.CheckpointRef(initializer=checkpoint_pb2.Initializer(family="retnet", seed=1)),
                                 examples=8, keep_eigenvalues=True, rotation="state"))
        self.assertTrue((phases > 0).all() and len(numpy.unique(phases)) > 7)
        return analysis_id, numpy.concatenate([logs, logs]), numpy.concatenate([phases, -phases])

    def test_complex_eigenvalues_in_the_plane(self):
        analysis_id, logs, phases = self.rotating()
        picture = read_png(self.get(f"/v1/analyses/{analysis_id}/plane.png?view=plane"))
        self.assertEqual(picture.shape, (SIZE, SIZE))
        scale = SIZE / 2 / 1.15
        # A cell is an octave of -log|λ|, those below 2^-6 together, by a 64th of the turn; π counts as -π.
        def cells(log, phase):
            octave = numpy.maximum(numpy.floor(numpy.log2(numpy.maximum(-log, 1e-300))), -7)
            return octave, numpy.floor((phase + math.pi) / (2 * math.pi) * 64).astype(int) % 64
        octave, sector = cells(logs, phases)
        self.assertTrue((logs < 0).all() and (logs > -4).all() and (phases != 0).all())
        y, x = numpy.mgrid[280:-281:-1, -280:281] / scale
        with numpy.errstate(divide="ignore"):
            pixel_log = numpy.log(numpy.hypot(x, y))
        pixel_octave, pixel_sector = cells(pixel_log, numpy.arctan2(y, x))
        density = numpy.zeros((SIZE, SIZE))
        for o, s in set(zip(octave, sector)):
            high, low = 2 ** (o + 1), 0 if o == -7 else 2 ** o
            area = math.pi / 64 * (math.exp(-2 * low) - math.exp(-2 * high)) * scale ** 2
            inside = (pixel_log <= 0) & (pixel_octave == o) & (pixel_sector == s)
            density[inside] = numpy.count_nonzero((octave == o) & (sector == s)) / area
        expected = levels(density)
        drawn = numpy.where(picture <= DENSEST, picture, 0)
        self.assertGreater(numpy.count_nonzero(expected), 500)
        self.assertLess(numpy.count_nonzero(numpy.abs(drawn - expected) > 1), 0.001 * numpy.count_nonzero(expected) + 1)
        circle = numpy.abs(numpy.hypot(x, y) - 1) * scale < 0.5
        self.assertTrue((picture[circle & (expected == 0)] == CIRCLE).all())

    def test_complex_eigenvalues_unrolled(self):
        analysis_id, logs, phases = self.rotating()
        picture = read_png(self.get(f"/v1/analyses/{analysis_id}/plane.png?view=unrolled"))
        counts = numpy.zeros((42, 64))  # by octave of -log|λ| from 2^-30, upwards in memory
        octave = numpy.floor(numpy.log2(-logs)).astype(int) + 30
        numpy.add.at(counts, (octave, numpy.floor((phases + math.pi) / (2 * math.pi) * 64).astype(int) % 64), 1)
        # Below the line at |λ| = 1: octave 0 comes first, then the shorter memories.
        line = numpy.flatnonzero((picture == CIRCLE).all(axis=1))
        self.assertEqual(list(line), [42 * 6, 42 * 6 + 1])
        below = picture[line[-1] + 1:line[-1] + 1 + 42 * 6]
        drawn = numpy.where(below <= DENSEST, below, 0)
        numpy.testing.assert_array_equal(drawn, numpy.kron(levels(counts), numpy.ones((6, 8))))

    def test_positive_real_eigenvalues_are_a_bar(self):
        analysis_id, logs, phases = self.analyze(demo(examples=64, keep_eigenvalues=True))
        self.assertTrue((phases == 0).all())
        picture = read_png(self.get(f"/v1/analyses/{analysis_id}/plane.png"))
        scale = SIZE / 2 / 1.15
        bar = picture[278:283]
        drawn = numpy.where(bar <= DENSEST, bar, 0)
        self.assertTrue((drawn == drawn[0]).all(), "five rows alike")
        outside = numpy.delete(picture, numpy.s_[278:283], axis=0)
        self.assertFalse(((outside > 0) & (outside <= DENSEST)).any())
        edges = (numpy.arange(SIZE + 1) - 280.5) / scale
        counted, _ = numpy.histogram(numpy.exp(logs), edges)
        # A bin of the spectrum is up to 2.4 of these columns wide: the plot is known to so much.
        near = numpy.convolve(counted, numpy.ones(7), "same")
        self.assertFalse((drawn[0][near == 0] > 0).any())
        self.assertTrue((drawn[0][counted > 20] > 0).all())
        smooth = numpy.convolve(counted, numpy.ones(3) / 3, "same")
        both = (smooth > 5) & (drawn[0] > 0)
        self.assertGreater(numpy.count_nonzero(both), 50)
        self.assertGreater(numpy.corrcoef(numpy.log(smooth[both]), drawn[0][both])[0, 1], 0.95)

    def test_layers_and_mistakes(self):
        analysis_id, *_ = self.analyze(demo(examples=16, keep_eigenvalues=True))
        pictures = [self.get(f"/v1/analyses/{analysis_id}/plane.png?{query}") for query in ("", "layer=0", "layer=1")]
        self.assertEqual(len(set(pictures)), 3)
        self.assertEqual(self.get("/v1/analyses/latest/plane.png"), pictures[0])
        for path, code in {f"/v1/analyses/{analysis_id}/plane.png?layer=9": 400, f"/v1/analyses/{analysis_id}/plane.png?view=x": 400,
                           "/v1/analyses/an-0/plane.png": 404, "/v1/nothing": 404}.items():
            with self.assertRaises(urllib.error.HTTPError) as error:
                self.get(path)
            self.assertEqual(error.exception.code, code, path)


if __name__ == "__main__":
    harness.main()
