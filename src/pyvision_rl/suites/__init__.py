"""Benchmark suites: published data sets, read, asked and scored by named protocols."""

TABLE: dict[str, str] = {
    "vstar": "pyvision_rl.suites.vstar:VStar",
    "hrbench": "pyvision_rl.suites.hrbench:HRBench",
    "mathverse": "pyvision_rl.suites.mathverse:MathVerse",
    "mathvision": "pyvision_rl.suites.mathvision:MathVision",
    "wemath": "pyvision_rl.suites.wemath:WeMath",
    "dynamath": "pyvision_rl.suites.dynamath:DynaMath",
    "tirbench": "pyvision_rl.suites.tirbench:TIRBench",
    "vsibench": "pyvision_rl.suites.vsibench:VSIBench",
    "videomme": "pyvision_rl.suites.videomme:VideoMME",
    "vlmsareblind": "pyvision_rl.suites.vlmsareblind:VLMsAreBlind",
}
"""Short name -> ``module:Class`` of a ``Suite``; built without arguments."""
