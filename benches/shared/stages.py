"""stages.py BINARY MAPS USER SYSTEM STACKS [SVG]: what a request's processor time is spent on.

STACKS is a file of what `perf script` prints of samples. Each is given to the stage whose source it stands in: that of the innermost
frame that belongs to one, so that an allocation, a copy or a system call counts where it was asked for. USER and SYSTEM are a
request's microseconds, which the samples divide. Prints Markdown, and draws the stacks as a flame graph.
"""
import collections
import html
import os
import re
import subprocess
import sys

# In the order in which a request meets them; the first that has a frame's source and function, written as
# `crate/file:line function`, decides.
STAGES = [
    ("wait for, read and parse the request", r"wharf/(connector/native/(connection(?!/sending)|poller)|http/(parse|target|request)|identity)|httparse/"),
    ("route and queue it, wake a worker", r"wharf/(router|queue|job|presence|server|workers)|matchit/"),
    ("check a connection out and in", r"wharf/(resource/|database/(pool|mod|settings))|(r2d2|scheduled-thread-pool)/"),
    ("ask PostgreSQL", r"wharf/(database/(postgres(?!/json)|comment)|endpoint/bind|value)|(tokio(-postgres|-util)?|postgres-(protocol|types)|futures-\w+)/"),
    ("render the answer", r"wharf/(database/(rows|json|postgres/json)|endpoint|http/(encode|response|timing))|itoa/"),
    ("write it", r"wharf/connector/native/(?!wire|link.* read$)"),
    ("log and metrics", r"wharf/(journal|metrics|traces|activity|observer)|prometheus-client/"),
]
REST = "the rest"
KERNEL = "[kernel.kallsyms]"
NO_CALL = "interrupts, page faults, leaving for another thread"
# The kernel's entry of a system call says which one it is.
CALL = re.compile(r"^__(?:x64|arm64)_sys_(\w+)$")


def read(name):
    """Each sample with its thread's name and its frames, the innermost first."""
    with open(name) as file:
        for sample in file.read().split("\n\n"):
            thread, *lines = sample.strip("\n").split("\n")
            frames = [re.match(r"\s*(\w+) (.*) \((.*)\)$", line).groups() for line in lines]
            if frames:
                yield thread.strip().rstrip("-0123456789"), [(int(place, 16), symbol, dso) for place, symbol, dso in frames]


def distance(binary, maps):
    """From a place in the binary's file, which is what `perf script` prints, to the address that the linker gave it."""
    with open(maps) as file:
        mapped = [line.split() for line in file if line.rstrip().endswith(binary)]
    starts = [int(line[0].split("-")[0], 16) for line in mapped]
    code = next(index for index, line in enumerate(mapped) if "x" in line[1])
    return starts[code] - min(starts) - int(mapped[code][2], 16)


def resolve(binary, distance, addresses):
    """The functions that are inlined at each address, the innermost first, each with its source."""
    ordered = sorted(addresses)
    asked = "\n".join(hex(address + distance) for address in ordered)
    command = ["addr2line", "-a", "-f", "-i", "-C", "-e", binary]
    out = subprocess.run(command, input=asked, capture_output=True, text=True, check=True).stdout
    found, current, name = {}, None, None
    places = iter(ordered)
    for line in out.splitlines():
        if name is None and re.fullmatch(r"0x[0-9a-f]{16}", line):
            current = found.setdefault(next(places), [])
        elif name is None:
            name = re.sub(r"::h[0-9a-f]{16}$", "", line)
        else:
            current.append((name, line))
            name = None
    return found


def stage_of(source, name):
    if dependency := re.search(r"/registry/src/[^/]+/(.+?)-\d[^/]*/", source):
        source = dependency[1] + "/"
    else:
        source = source.replace(os.getcwd() + "/src/", "wharf/")
    return next((stage for stage, pattern in STAGES if re.match(pattern, f"{source} {name}")), None)


class Sample:
    """A stack with what it stands for; `sources` has what is inlined where."""

    def __init__(self, thread, frames, binary, sources):
        self.in_kernel = frames[0][2] == KERNEL
        self.call = NO_CALL
        stack, end, found = [], None, None
        for address, symbol, dso in frames:
            if dso == binary:
                for name, source in sources[address]:
                    found = found or stage_of(source, name)
                    # What the standard library has between two others says nothing, but for where the time goes itself.
                    if not stack or not source.startswith("/rustc/"):
                        stack.append((name, False))
                    if source.startswith(os.getcwd()):
                        end = len(stack)
            else:
                stack.append((symbol, dso == KERNEL))
                if entered := dso == KERNEL and CALL.match(symbol):
                    self.call = entered[1]
        self.stage = found or REST
        # From the crate's outermost function on; before it, threads begin.
        self.stack = ((thread, False), *stack[:end][::-1])


def main():
    binary, maps = sys.argv[1:3]
    user_us, kernel_us = map(float, sys.argv[3:5])
    stacks = list(read(sys.argv[5]))
    own = {address for _, frames in stacks for address, _, dso in frames if dso == binary}
    sources = resolve(binary, distance(binary, maps), own)
    samples = [Sample(*stack, binary, sources) for stack in stacks]
    in_user = [sample for sample in samples if not sample.in_kernel]
    in_kernel = [sample for sample in samples if sample.in_kernel]
    users, kernels = (collections.Counter(sample.stage for sample in some) for some in (in_user, in_kernel))
    print("| stage | its system calls | user µs | kernel µs | together | |\n|---|---|---|---|---|---|")
    for stage in [name for name, _ in STAGES] + [REST]:
        user, kernel = users[stage] * user_us / len(in_user), kernels[stage] * kernel_us / len(in_kernel)
        calls = collections.Counter(sample.call for sample in in_kernel if sample.stage == stage)
        # One sample may be of a call that nobody makes in a request.
        names = ", ".join(f"`{call}`" for call, count in calls.most_common() if call != NO_CALL and count > len(in_kernel) / 500)
        share = 100 * (user + kernel) / (user_us + kernel_us)
        print(f"| {stage} | {names} | {user:.1f} | {kernel:.1f} | {user + kernel:.1f} | {share:.0f} % |")
    print(f"| all | | {user_us:.1f} | {kernel_us:.1f} | {user_us + kernel_us:.1f} | |\n")
    print("| in the kernel | µs |\n|---|---|")
    for call, count in collections.Counter(sample.call for sample in in_kernel).most_common():
        if (us := count * kernel_us / len(in_kernel)) >= 0.05:
            print(f"| {call if call == NO_CALL else f'`{call}`'} | {us:.1f} |")
    if len(sys.argv) > 6 and sys.argv[6]:
        with open(sys.argv[6], "w") as file:
            file.write(flamegraph(collections.Counter(sample.stack for sample in samples)))


WIDTH, ROW, LEAST = 1200, 16, 0.002


def flamegraph(stacks):
    """Frames as wide as their share of the samples, callers below; what is narrower than LEAST of all is left out."""
    tree = [0, {}]
    for stack, count in stacks.items():
        node = tree
        node[0] += count
        for frame in stack:
            node = node[1].setdefault(frame, [0, {}])
            node[0] += count
    rects, deepest = [], 0

    def place(node, x, depth):
        nonlocal deepest
        for (name, in_kernel), child in sorted(node[1].items()):
            if child[0] >= LEAST * tree[0]:
                deepest = max(deepest, depth)
                rects.append((x, depth, child[0], name, in_kernel))
                place(child, x, depth + 1)
            x += child[0]

    place(tree, 0, 0)
    height = (deepest + 1) * ROW
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height + 30}" font-family="monospace" font-size="11">',
        f'<rect width="{WIDTH}" height="{height + 30}" fill="#fff"/>',
        '<text x="4" y="18" font-size="14">Samples of the server while it answers /db: user code, '
        '<tspan fill="#0b6e99">the kernel</tspan>; callers below</text>',
    ]
    for x, depth, count, name, in_kernel in rects:
        left, width = WIDTH * x / tree[0], WIDTH * count / tree[0]
        top = 30 + height - (depth + 1) * ROW
        fill = "#9cc8dc" if in_kernel else "#f2c18d"
        short = short_name(name)
        text = short if len(short) * 6.7 < width - 4 else short[: max(0, int((width - 4) / 6.7) - 1)] + "…"
        out.append(
            f'<g><title>{html.escape(short)}, {100 * count / tree[0]:.1f} %</title>'
            f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{ROW - 1}" fill="{fill}"/>'
            + (f'<text x="{left + 2:.1f}" y="{top + 11}">{html.escape(text)}</text>' if width > 24 else "")
            + "</g>"
        )
    return "\n".join(out + ["</svg>"]) + "\n"


def short_name(name):
    """Without the parameters of types, and of a path the last three parts."""
    name = re.sub(r"^_*<(.+?) as .+?>::", r"\1::", name)
    while (shorter := re.sub(r"(::)?<[^<>]*>", "", name)) != name:
        name = shorter
    return "::".join(name.split("::")[-3:])


main()
