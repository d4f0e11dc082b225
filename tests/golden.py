"""One number for all bits that the kernels of an instruction set compute, without NumPy.

    python tests/golden.py zdlfast/_kernels_*.so

prints the hash of what each rule makes of values of all kinds: ordinary ones, tiny and huge
ones, subnormal ones, infinities and NaN (which count as equal, whatever their payload), with the
parameter and the gradient of one dtype, and of two; plainly, and scaled and flushed as options of
every rule have it; of what is done to gradients before a rule; and of the codes of each format of
state, rounded to the nearest and by chance. It is the same for every compiler, CPU and instruction
set, or something is wrong with one of them. (Adam's options here have powers that are exact: the
last bit of others is the C library's.) Each file is loaded in a process of its own,
which may die of an instruction that this CPU has not got.
"""

import ctypes
import functools
import hashlib
import importlib.util
import struct
import subprocess
import sys
from pathlib import Path

# ruff: noqa: E501
EXPECTED = {
    "sgd": "88af1ed4983166afdb398e022affe78dfebae944094320e82060d40b3ae0f3cc",
    "sgd, scaled": "ce2c5a71353f219f98eff4ba7a9c5a18a876da9bc032664412bc6459275c9f3d",
    "momentum": "eac9f7f3f104d2ebf6c632340f6d2e28f212e81a251d99bd83243447a6534a62",
    "momentum, scaled": "cd23394c27ece1152b3238941c46009c24ae5476146bb182da5bc64a582c28f5",
    "nesterov": "3a62854abb6b00dfcb067d803e0b1b22b632e484177bcf1186661c4e4f417a1a",
    "nesterov, scaled": "e3f153c7b4d150518898116752bf45c04bbec78973a436a48c6e527002094448",
    "adagrad": "08d519905e8aa2c459be649cb35b577058fd09039fe4943e3e404a8bcaa5a780",
    "adagrad, scaled": "b6af53ebb7eb865f8296d803079140a74d01a8767e736ce663549d8ddaa60147",
    "rmsprop": "e1bad4a866a394088ee656566cddc61fa50ab7ab48bb85301177a78ac9608908",
    "rmsprop, scaled": "2e7d07aeeb3593fe59d505117dcebab3a5bfbd31b8a888cd4c3671ea0f9398d3",
    "adam": "c556923589b1b0049347e8096616474d5e884f8a424476c2372fbc88f19fce55",
    "adam, scaled": "73a4b7c71d993a363e42abfcf9251f091b79cb692d386be2f18254c4089730a3",
    "nesterovbook2": "d8fedf860c6abf4b347e0386436a6884627d79bb68c377f91ec2f00505b6b471",
    "nesterovbook2, scaled": "a9a655013d6367f12d511f680f82f5a9df27240df7ef38c45ab0ab0751109918",
    "adamw": "4f7f6dfb9cec424705285343ca963a323ba26ecb95a0a8f71fa9b44f5353cc55",
    "adamw, scaled": "2f84c8cf07203005eaa51b8a9589b99725dde9c32b44ce50667dba289d9fc52f",
    "amsgrad": "c14dcdfde6e22f6e670f352345ebc2de5702aeacbe00706e89831ba82f65bbfb",
    "amsgrad, scaled": "529952ba29fdb16d1d6b702824b7c9b93fc1392191ab64d98c08a1d879c02ffe",
    "nadam": "77a2f40b9b797e7aa56df8614ae8fa05d57ed12a477b3c212aa21155d4dac432",
    "nadam, scaled": "2c657f94991291bd315576f8e572864508bc29ff6c4454c251ad347e89194dc4",
    "radam": "010acc2516657a31d0585745559293d3bcd4df89de4025b9e1874fe4f94834f9",
    "radam, scaled": "42fa8e68a8b1ee413855b62cddcc71407dd07e5dea53b1384862c91847a03361",
    "adamax": "c5e8725beac217f892c736d65a099e20b27363b6bd6767373c6492f48d50b3d8",
    "adamax, scaled": "2763de7051503b196ffcd0191564a413c63885b504a2d5679b8a4daa54668707",
    "adadelta": "a723bb15375e92f61dab4bd68593f763ed255182167b234aaf32d3536f8121d1",
    "adadelta, scaled": "0f412158fee0faa2659e8db4d78cae1b8141cc8c26fe359b455f2458a99dcf2b",
    "adabound": "4043c27807bb34c02ddbb66077af60bef9c627f9f34c3abe96af5d4a4cbf974b",
    "adabound, scaled": "82c9200fa59fd8fb338f2f9db087ce8d5ca042ad6da1a21d3c7a35caeb4064d5",
    "amsbound": "08d30d96c21fed6ca4a75bd4ac63864bb6cc0d59ffb172da2b3763693b129bf6",
    "amsbound, scaled": "932bb418070a530594662a6ceac25da10e4f2c16349fbe505bfaa33eadf1205e",
    "adabelief": "3c76c4e6b63b6e25eef357665dfbc155e6ed9f2ef128e7ab5b64be61097a9b22",
    "adabelief, scaled": "81373aed66aa5941c54cc9dd1c251a362927e2ff3892cca12bc8f89a1c00566a",
    "lion": "fc02df19881c130c82ac675805f8b1038d177584a5c9c4129604bf53aa030ce9",
    "lion, scaled": "8ddb50bc5ae66d09da6c335892474eaf68ed87a668bcc1b1b8fcef857262f9f6",
    "adopt": "292e3cfe40025c367eab1a46808bb73556cd9a0148414965eed86967a09c40df",
    "adopt, scaled": "7440b9383a487587bdf671f5041447f08bd8ae6605b2a4e349c82b09fd0dc439",
    "schedulefreeadamw": "b626f87a5057b7abad823b5972237043a074d737a3100d7b3a9c3ab27fd951d7",
    "schedulefreeadamw, scaled": "4bb52b70de536a8ca3a292e8c9c3122cb6aabed0be5f5d0e5a539c21c8991c53",
    "adamw_amsgrad": "4993a70514a455e80f2501adeab6004e0e73b66da4290d803d61955160d2fe4c",
    "adamw_amsgrad, scaled": "11cac587cf83775966e441131f99583be211bf48dfab668b4e9a20b3706ab5c9",
    "sklearnadam": "29e9a7cb2eba9178be9bfe4c71476262909bf9eb28fd85d4e57a0fe547a32a3a",
    "sklearnadam, scaled": "d0c60576ab0b8a2313612e33751e649018a75cf301ee2b9e24c8d349d774a7c4",
    "sklearnadam_numpy1": "8891ecd40b593d1020250bcd2b9b636b6ada281537cb4867dd3dd43a080112d1",
    "sklearnadam_numpy1, scaled": "42c6cdf2844c116162f650576b8bb4bccdf47bfe8bff037b0d1a66ef285a9a13",
    "sklearnnesterov": "b0191caa9dfbd945473ef44097b583b8d6d00a5df5651e14924d4ce2643031cf",
    "sklearnnesterov, scaled": "ad923002f42fdf318fb30070a39b938512182e3ee4716c3066e940a31d5a26de",
    "stage": "bd07468074250f6a58724737582f92ccc6b8ddf167647b89adb347dbac954c28",
    "square_sum": "af204ee4b55f789004fecfe1890d68b6c579f0845bd1d8d6223541796da44511",
    "bfloat16": "0eaef61f99e8b3a2179f7c1475654d226cfb1f1eeeb9672d5cf4e3ddb405572a",
    "bfloat16, by chance": "638f22b84ba1aa55aeb3ec923b980280b5ef555269a83080b5e42ce99a24c74c",
    "bfloat16, all codes": "dc3b26c1378c081591ebe7d4384cf81ccfb7fa5db306def5f65aaf2de9725303",
    "8bit, signed": "6a2d2f83341eed88582cdf9aaf590922199654d60eef4475f7da16c0a2ccd392",
    "8bit, signed, by chance": "8188ede840d457e193427a8ef60732476b5949f298f3964e75e297ffbf36a8e8",
    "8bit, signed, all codes": "d60c6ee4194db5bf189c745c854ed79aff5342d4f997d399e8e5c00eead1f451",
    "8bit, unsigned": "e4933175a77f2c37397bbdabf095f2c976c1764b51bb980a288348863c9d4c17",
    "8bit, unsigned, by chance": "353e55855310a8a9d7609b70a803faa3a5ea4bc1ce4562faf2b85a574e11f573",
    "8bit, unsigned, all codes": "26b8cc40e0de7f75ada9a0e751de2a3d936431bff08bc7270b3d2503a7c668e7",
    "torchmomentum": "622301f81dab99f39177ae195932f3cd688ccd7eb4b1a902ba4c1a6cb1a40140",
    "torchmomentum, scaled": "2bfc13ad50b624641fe663f8d96bb54860c97a6d0526b49bbc93f03179d6ba44",
    "torchnesterov": "cb6ad00d199247a8e715cb42a7c944d6c36acdbe6daca22c4fde5041e5aa93c3",
    "torchnesterov, scaled": "aa0e73fe0f94a97ce7b217ed4b75eb85e17359421849c5037bcab44f36c40712",
    "torchadagrad": "f9f45b0153f5722487d88a1e9a2c87b6e7750bb53c9bb108bd1446d3c20d9c80",
    "torchadagrad, scaled": "dfd385552e50e7679e17387df6136f4a39e755448c27835c2b893a8a3220ca1f",
    "torchrmspropmomentum": "98c3d8fc646b6975141b8167947cec4cc9a11ac022d61c0e0468f4bff1d004b8",
    "torchrmspropmomentum, scaled": "8453644feee24374ba7082b46d22eddc79f80a7e1a5f65d766580b2e2f978007",
    "torchrmspropcentered": "d7c6718453a4a2801f7a24b47719a0ab596a26323472056da69aa14085ba36fb",
    "torchrmspropcentered, scaled": "b3e875dac522d4f4eeb02a370c7f8e5da30caaf8c5b3cd3696676aff7fdef1c4",
    "torchrmspropcenteredmomentum": "69fea00bcd63b556d576907428ced02dd667d799688dde14854462f7107a3834",
    "torchrmspropcenteredmomentum, scaled": "a3dc27276ec73dc0f7da26e78c6e73b0360748ff68a2f1324a68163fbdb525a1",
}
COUNT, STEPS = 4099, 5
MAX_SCALARS, FIRST_SCALAR, MAX_NUMBERS, MAX_ARRAYS = 16, 3, 4, 6
DOUBLES = ctypes.POINTER(ctypes.c_double)
ARRAYS = ctypes.POINTER(ctypes.c_void_p)
SCALARS = ctypes.CFUNCTYPE(None, DOUBLES, ctypes.c_double, DOUBLES, ctypes.c_void_p)
LOOP = ctypes.CFUNCTYPE(None, ctypes.c_int, ARRAYS, ctypes.c_ssize_t, DOUBLES)
KINDS = (ctypes.c_float, ctypes.c_double)
DTYPES = ((0, 0), (1, 1), (0, 1), (1, 0))  # whether parameter and gradient are double
PARAM_DOUBLE, GRAD_DOUBLE, SCALED = 1, 2, 4
FORMATS = {"bfloat16": 1, "8bit, signed": 2, "8bit, unsigned": 3}
BLOCK, GROUP, GROUPS = 512, 32, 16
NEUTRAL, SCALES = (
    (1.0, 1.0, 0.0),
    (-0.75, 0.875, 1.0),
)  # of gradient and parameter; whether to flush
OPTIONS = {
    "sgd": [0.1],
    "momentum": [0.1, 0.9],
    "nesterov": [0.1, 0.9],
    "adagrad": [0.1, 1e-7],
    "rmsprop": [0.1, 0.99, 1e-7],
    # Powers of these are exact, whoever wrote pow.
    "adam": [0.1, 0.5, 0.75, 1e-7],
    "nesterovbook2": [0.1, 0.9],
    "adamw": [0.1, 0.5, 0.75, 1e-7],
    "amsgrad": [0.1, 0.5, 0.75, 1e-7],
    "nadam": [0.1, 0.5, 0.75, 0.0, 1e-7],
    "radam": [0.1, 0.5, 0.9375, 1e-7],
    "adamax": [0.1, 0.5, 0.75, 1e-7],
    "adadelta": [1.0, 0.9, 1e-6],
    "adabound": [0.1, 0.5, 0.75, 0.2, 0.1, 1e-7],
    "amsbound": [0.1, 0.5, 0.75, 0.2, 0.1, 1e-7],
    "adabelief": [0.1, 0.5, 0.75, 1e-7],
    "lion": [0.1, 0.9, 0.99],
    "adopt": [0.1, 0.5, 0.75, 1e-6, 0.1],
    "schedulefreeadamw": [0.5, 0.5, 0.75, 4.0, 1.0, 2.0, 1e-7, 0.1],
    "adamw_amsgrad": [0.1, 0.5, 0.75, 1e-7],
    "sklearnadam": [0.1, 0.5, 0.75, 1e-7],
    "sklearnadam_numpy1": [0.1, 0.5, 0.75, 1e-7],
    "sklearnnesterov": [0.1, 0.9],
    "torchmomentum": [0.1, 0.9, 0.5],
    "torchnesterov": [0.1, 0.9, 0.5],
    "torchadagrad": [0.1, 0.5, 1e-7],
    "torchrmspropmomentum": [0.1, 0.99, 0.9, 1e-7],
    "torchrmspropcentered": [0.1, 0.99, 1e-7],
    "torchrmspropcenteredmomentum": [0.1, 0.99, 0.9, 1e-7],
}


class Rule(ctypes.Structure):
    """A row of the table in _kernels.pxd."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("options", ctypes.c_int),
        ("slots", ctypes.c_int),
        ("numbers", ctypes.c_int),
        ("count", ctypes.c_int),
        ("scalars", SCALARS),
        ("loop", LOOP),
    )


MAX_RULES = 64
STAGE = ctypes.CFUNCTYPE(
    None, ctypes.c_int, *[ctypes.c_void_p] * 3, ctypes.c_ssize_t, *[ctypes.c_double] * 3
)
SQUARE_SUM = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int, ctypes.c_void_p, ctypes.c_ssize_t)


DECODE = ctypes.CFUNCTYPE(
    None, ctypes.c_int, ctypes.c_int, *[ctypes.c_void_p] * 3, ctypes.c_ssize_t
)
FIND_SCALES = ctypes.CFUNCTYPE(
    None, ctypes.c_int, ctypes.c_int, *[ctypes.c_void_p] * 2, ctypes.c_ssize_t
)
ENCODE = ctypes.CFUNCTYPE(
    None, ctypes.c_int, ctypes.c_int, *[ctypes.c_void_p] * 3, ctypes.c_ssize_t, ctypes.c_int,
    ctypes.c_uint32,
)  # fmt: skip


class Kernels(ctypes.Structure):
    """What a kernel module hands to the engine."""

    _fields_ = (
        ("rules", Rule * MAX_RULES),
        ("stage", STAGE),
        ("square_sum", SQUARE_SUM),
        ("decode", DECODE),
        ("find_scales", FIND_SCALES),
        ("encode", ENCODE),
    )


def load(path):
    """The kernels of a module; the module itself, lest it be unloaded."""
    name = Path(path).name.split(".")[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = get(module.table, b"zdlfast.kernels")
    return ctypes.cast(address, ctypes.POINTER(Kernels)).contents, module


def by_name(kernels):
    """The rules of a module's kernels."""
    rules = {}
    while kernels.rules[len(rules)].name:
        rules[kernels.rules[len(rules)].name.decode()] = kernels.rules[len(rules)]
    return rules


@functools.cache
def drawn(seed, kind, positive):
    """Values of all kinds, from a generator that is the same everywhere."""
    bits = 32 if kind is ctypes.c_float else 64
    state, numbers = seed, []
    for i in range(COUNT):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        if i % 8 < 5:  # ordinary: a fraction of -4 to 4
            number = (state >> 11) / 2**50 - 4.0
        else:  # any pattern of bits
            pattern = (state >> (64 - bits)).to_bytes(bits // 8, "little")
            (number,) = struct.unpack("<f" if bits == 32 else "<d", pattern)
        numbers.append(abs(number) if positive else number)
    return bytes((kind * COUNT)(*numbers))


def values(seed, kind, positive):
    """A fresh array of these values."""
    return (kind * COUNT).from_buffer_copy(drawn(seed, kind, positive))


def bits_of(array, kind):
    """The bytes of an array, with one pattern for all NaN."""
    form = "f" if kind is ctypes.c_float else "d"
    nan = struct.pack(f"<{form}", float("nan"))
    size = len(nan)
    data = bytearray(array)
    for i, x in enumerate(memoryview(bytes(data)).cast(form).tolist()):
        if x != x:
            data[i * size : (i + 1) * size] = nan
    return data


def run(rule, options, step, arrays, kind, numbers, scales=NEUTRAL):
    """One step of a rule over arrays of ctypes: the parameter's, the gradient's, the state's."""
    given = (ctypes.c_double * MAX_SCALARS)(*options)
    scalars = (ctypes.c_double * MAX_SCALARS)(*scales)
    own = ctypes.addressof(scalars) + FIRST_SCALAR * ctypes.sizeof(ctypes.c_double)
    rule.scalars(given, float(step), numbers, own)
    pointers = (ctypes.c_void_p * MAX_ARRAYS)(*map(ctypes.addressof, arrays))
    rule.loop(kind, pointers, len(arrays[0]), scalars)


def golden(path):
    """The hash of each rule, over all dtypes and steps, and of what is done to gradients."""
    kernels, module = load(path)
    rules, found = by_name(kernels), {}
    for name, options in OPTIONS.items():
        found[name] = hash_of(rules[name], options, 0, NEUTRAL)
        found[f"{name}, scaled"] = hash_of(rules[name], options, SCALED, SCALES)
    found["stage"], found["square_sum"] = stage_hash(kernels), square_sum_hash(kernels)
    for name, number in FORMATS.items():
        found[name] = format_hash(kernels, number, False)
        found[f"{name}, by chance"] = format_hash(kernels, number, True)
        found[f"{name}, all codes"] = codes_hash(kernels, number)
    del kernels, module
    return found


def hash_of(rule, options, scaled, scales):
    digest = hashlib.sha256()
    for wide, grad_wide in DTYPES:
        kind = KINDS[wide]
        state = [values(2 + i, kind, True) for i in range(rule.slots)]
        p, numbers = values(1, kind, False), (ctypes.c_double * MAX_NUMBERS)()
        for step in range(1, STEPS + 1):
            g = values(10 + step, KINDS[grad_wide], False)
            loop = PARAM_DOUBLE * wide + GRAD_DOUBLE * grad_wide + scaled
            run(rule, options, step, [p, g, *state], loop, numbers, scales)
            for array in (p, *state):
                digest.update(bits_of(array, kind))
    return digest.hexdigest()


def stage_hash(kernels):
    digest = hashlib.sha256()
    for wide, grad_wide in DTYPES:
        p, g = values(1, KINDS[wide], False), values(2, KINDS[grad_wide], False)
        for clip, decay in ((float("inf"), 0.1), (2.5, 0.0), (2.5, 0.1)):
            kind = KINDS[grad_wide or (wide and decay != 0.0)]
            staged = (kind * COUNT)()
            kernels.stage(
                PARAM_DOUBLE * wide + GRAD_DOUBLE * grad_wide,
                *map(ctypes.addressof, (p, g, staged)), COUNT, -0.75, clip, decay,
            )  # fmt: skip
            digest.update(bits_of(staged, kind))
    return digest.hexdigest()


def square_sum_hash(kernels):
    digest = hashlib.sha256()
    for wide, kind in enumerate(KINDS):
        # Neither NaN nor what is infinite when it is squared.
        finite = [x if abs(x) < 1e18 else 1.5 for x in values(1, kind, False)]
        array = (kind * COUNT)(*finite)
        for n in (*range(40), 4095, 4096):
            total = kernels.square_sum(wide, ctypes.addressof(array), n)
            digest.update(struct.pack("<d", total))
    return digest.hexdigest()


def scaled(kind, positive):
    """Ordinary values whose groups have all the magnitudes of float32."""
    ordinary = [x if abs(x) <= 4 else 0.75 for x in values(3, kind, positive)]
    powers = [2.0 ** (i // GROUP * 7 % 277 - 149) for i in range(COUNT)]
    return (kind * COUNT)(*(x * power for x, power in zip(ordinary, powers, strict=True)))


def format_hash(kernels, number, stochastic):
    """Codes and scales of values, and the values that they stand for."""
    digest = hashlib.sha256()
    for wide, kind in enumerate(KINDS):
        positive = number == FORMATS["8bit, unsigned"]
        for array in (values(1, kind, positive), scaled(kind, positive)):
            for place in range(0, COUNT, BLOCK):
                n = min(BLOCK, COUNT - place)
                block = (kind * BLOCK)(*array[place : place + n])
                codes, scales = (ctypes.c_uint16 * BLOCK)(), (ctypes.c_float * GROUPS)()
                if number != FORMATS["bfloat16"]:
                    kernels.find_scales(number, wide, *map(ctypes.addressof, (block, scales)), n)
                kernels.encode(
                    number, wide, *map(ctypes.addressof, (block, codes, scales)), n, stochastic,
                    0x9E3779B9 + place,
                )  # fmt: skip
                digest.update(bytes(codes))
                digest.update(decoded(kernels, number, wide, codes, scales))
    return digest.hexdigest()


def codes_hash(kernels, number):
    """What all codes stand for; in 8 bits, with scales of all magnitudes."""
    digest = hashlib.sha256()
    for wide in range(2):
        if number == FORMATS["bfloat16"]:
            for first in range(0, 65536, BLOCK):
                codes = (ctypes.c_uint16 * BLOCK)(*range(first, first + BLOCK))
                digest.update(decoded(kernels, number, wide, codes, (ctypes.c_float * GROUPS)()))
            continue
        codes = (ctypes.c_uint8 * BLOCK)(*range(256), *range(256))
        maxima = [0.0, 2.0**-149, 2.0**127 * (2 - 2**-23), float("nan")]
        maxima += [1.1 * 2.0**power for power in range(-149, 127)]
        for first in range(0, len(maxima), GROUPS):
            scales = (ctypes.c_float * GROUPS)(*maxima[first : first + GROUPS])
            digest.update(decoded(kernels, number, wide, codes, scales))
    return digest.hexdigest()


def decoded(kernels, number, wide, codes, scales):
    """The bytes of scales, and of a block of values."""
    block = (KINDS[wide] * BLOCK)()
    kernels.decode(number, wide, *map(ctypes.addressof, (codes, scales, block)), BLOCK)
    return bits_of(scales, ctypes.c_float) + bits_of(block, KINDS[wide])


def main(paths):
    if len(paths) == 1:
        found = golden(paths[0])
        for rule, digest in found.items():
            verdict = "as expected" if digest == EXPECTED.get(rule) else "NOT AS EXPECTED"
            print(f"{digest} {verdict}, {rule}: {paths[0]}")
        return 0 if found == EXPECTED else 1
    status = 0
    for path in paths:
        done = subprocess.run([sys.executable, __file__, path], check=False)
        if done.returncode < 0:
            print(f"not run, signal {-done.returncode}: does this CPU have it? {path}")
        status = max(status, done.returncode)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
