"""forward_bench as a child process, for the scripts that race it."""

import subprocess


class ForwardProcess:
    def __init__(self, binaries, checkpoint, batch, steps, threads, *more):
        """`more`: device, dtype and a file of settings, as forward_bench takes them."""
        command = [binaries / "forward_bench", checkpoint, str(batch), str(steps), str(threads), *more]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line):
        """Seconds, or bytes of `memory`."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"forward_bench ended at: {line}")
        return float(answer)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
