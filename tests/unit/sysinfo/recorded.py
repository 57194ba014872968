"""What vendors' tools print, transcribed by hand from the formats that they document; no machine of anybody was recorded.

nvidia-smi: "--query-gpu" with "--format=csv,noheader,nounits" as in its manual page and `nvidia-smi --help-query-gpu`: fields
parted by a comma and a blank, "[N/A]" or "[Not Supported]" for what a GPU does not tell, e.g. the utilization under MIG.
rocm-smi: "--json" as in the ROCm System Management Interface guide: a map of cards and "system", every value a string; the
case of the keys differs between releases ("Card series", "Card Series"), and warnings may stand in front.
"""

NVIDIA_FIND_A100 = """\
0, NVIDIA A100-SXM4-40GB, 535.161.08, GPU-5c6ffb2e-6a35-4d7b-9f22-1f0b8d2d9a01
1, NVIDIA A100-SXM4-40GB, 535.161.08, GPU-0a4f3c58-52c1-47f0-8a51-7b1b3c9de502
"""

NVIDIA_USE_A100 = """\
0, 97, 43, 40960, 38112, 2848
1, 0, 0, 40960, 0, 40960
"""

NVIDIA_USE_MIG = """\
0, [N/A], [N/A], 40960, 87, 40872
1, 12, 3, 40960, 400, 40560
"""

NVIDIA_FIND_OLD = """\
0, Quadro K600, 470.256.02, [N/A]
"""

NVIDIA_USE_OLD = """\
0, [Not Supported], [Not Supported], 981, 120, 861
"""

# A GPU has fallen off the bus: the complaint is between the rows, and the exit code is not 0.
NVIDIA_USE_LOST = """\
Unable to determine the device handle for GPU0000:C1:00.0: Unknown Error
1, 12, 3, 81559, 400, 81159
"""

NVIDIA_NO_DRIVER = """\
NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. \
Make sure that the latest NVIDIA driver is installed and running.
"""

AMD_FIND_MI250X = """\
{"card0": {"Unique ID": "0x9c1d7a3e5b2f8e10", "Card Series": "AMD Instinct MI250X", "Card Model": "0x7408", \
"Card Vendor": "Advanced Micro Devices, Inc. [AMD/ATI]", "Card SKU": "D65209"}, \
"card10": {"Unique ID": "N/A", "Card Series": "N/A", "Card Model": "0x7408"}, \
"card2": {"Unique ID": "0x1f6a2b9c4d3e7012", "Card Series": "AMD Instinct MI250X", "Card Model": "0x7408"}, \
"system": {"Driver version": "6.3.6"}}
"""

AMD_FIND_OTHER_CASE = """\
WARNING: AMD GPU device(s) is/are in a low-power state. Check power control/runtime_status

{"card0": {"Unique ID": "0x2a8f11", "Card series": "Instinct MI100", "Card model": "0x0c34"}, \
"system": {"Driver version": "5.18.13"}}
"""

AMD_USE_MI250X = """\
{"card0": {"GPU use (%)": "71", "GFX Activity": "3344", "GPU Memory Allocated (VRAM%)": "25", \
"GPU Memory Read/Write Activity (%)": "12", "VRAM Total Memory (B)": "68702699520", \
"VRAM Total Used Memory (B)": "17179869184"}, \
"card2": {"GPU use (%)": "N/A", "VRAM Total Memory (B)": "68702699520", "VRAM Total Used Memory (B)": "10977280"}}
"""
