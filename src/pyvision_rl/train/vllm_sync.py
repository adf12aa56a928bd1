"""RL with a vLLM server: the learner's network here, its weights there, and proof that they agree.

In: an assembly whose policy is ``vllm``. Out: the learner's network; from then on every new version
is published (saved, and loaded by the server between a pause and a resume) and both engines score a
canary. A server that holds other weights than the learner stops the run: what it samples would be
trained on as if the learner had sampled it. Serves one learner process; samples nothing.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from pyvision_rl.assemble import Assembly, build_tasks
from pyvision_rl.config import Config
from pyvision_rl.errors import ConfigError, EndpointError, TrainError
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.policy.vllm import VLLMPolicy
from pyvision_rl.policy.vllm_options import Options
from pyvision_rl.policy.vllm_server import Served, VLLMServer
from pyvision_rl.train.canary import Canary, Scores, make_sequences, scored, scores

_CACHES = ("/reset_mm_cache", "/reset_encoder_cache", "/reset_prefix_cache")
"""All of them hold what old weights computed. A picture that stays in one of the first two and not
in the other has ended a server's engine at its next request ("Encoder cache miss")."""


def join(assembly: Assembly, out: Path) -> VisionLanguageModel:
    """Return the network that the learner trains, tied to the policy's server.

    Args:
        assembly: Of the run. Its server is checked before the network is loaded.
        out: The run folder.

    Raises:
        ConfigError: The policy can be given no weights, or its server is not what it should be.
    """
    config, policy = assembly.config, assembly.harness.policy
    if not isinstance(policy, VLLMPolicy):
        raise ConfigError(
            'rl trains an in-process policy: set policy.name = "local"; or one of a vLLM server: '
            '"vllm"'
        )
    served = asyncio.run(_checked(policy))
    model = _load(config)
    assert model.banned_ids == policy.facts.banned_ids
    prompts, renderer = assembly.harness.prompts, assembly.harness.renderer
    count = policy.options.sync.canary_tasks
    canary = Canary(make_sequences(build_tasks(config.tasks), count, prompts, renderer))
    policy.on_new_weights(Sync(policy, model, canary, served, out))
    return model


async def _checked(policy: VLLMPolicy) -> Served:
    # Connections belong to an event loop, and the policy's own will be that of the run.
    server = VLLMServer(policy.options)
    try:
        return await policy.check(server)
    finally:
        await server.close()


def _load(config: Config) -> VisionLanguageModel:
    from pyvision_rl.models.load import load_model, set_threads

    policy = config.policy
    set_threads(policy.threads)
    return load_model(
        policy.model,
        dtype=policy.dtype,
        device=policy.device,
        min_pixels=policy.min_pixels,
        max_pixels=policy.max_pixels,
    )


class Sync:
    """Publishes each version once and compares; a ``vllm.Publish``."""

    def __init__(
        self,
        policy: VLLMPolicy,
        model: VisionLanguageModel,
        canary: Canary,
        served: Served,
        out: Path,
    ) -> None:
        """Take what to publish and to whom.

        Args:
            policy: Its server gets the weights.
            model: Holds them; adapters may still be put into it.
            canary: What both engines score.
            served: The model to score with.
            out: The run folder.
        """
        self._policy = policy
        self._model = model
        self._canary = canary
        self._served = served
        self._options = policy.options.sync
        self._folder = Path(self._options.folder or out / "vllm").resolve()
        self._adapter = ""
        self._version = -1
        self._noted: dict[str, float] = {}

    def __call__(self, version: int) -> Mapping[str, float]:
        """Give the server the network's weights and prove that it has them; return the numbers.

        The same version again changes nothing and returns the same numbers.

        Raises:
            TrainError: They could not be published, or the server holds others.
        """
        if version == self._version:
            return self._noted
        began = time.perf_counter()
        try:
            theirs = asyncio.run(self._exchange(version))
        except (OSError, RuntimeError, SafetensorError, EndpointError) as error:
            raise TrainError(f"the weights of version {version} were not published: {error}") from (
                error
            )
        agreement = self._canary.compare(scores(self._model, self._canary.sequences), theirs)
        problem = agreement.problem(self._options.max_gap, self._options.min_follow)
        if problem:
            raise TrainError(
                f"version {version}: {self._policy.options.url} does not hold the learner's "
                f"weights, so the run stops (docs/vllm.md, canary). On {len(theirs)} tokens of "
                f"{len(self._canary.sequences)} sequences {problem}"
            )
        self._version = version
        self._noted = {**agreement.numbers(), "sync_s": time.perf_counter() - began}
        return self._noted

    async def _exchange(self, version: int) -> Scores:
        """Publish, and return the server's scores of the canary."""
        options = self._policy.options
        patient = {"timeout_s": max(options.timeout_s, self._options.timeout_s)}
        server = VLLMServer(Options.model_validate(options.model_dump() | patient))
        try:
            if self._options.how == "full":
                await self._publish_all(server, version)
            elif self._options.how == "lora":
                await self._publish_adapters(server, version)
            return await self._their_scores(server)
        finally:
            await server.close()

    async def _publish_all(self, server: VLLMServer, version: int) -> None:
        folder = self._fresh(f"pvrl-weights-{version:06d}")
        self._model.save(folder)
        try:
            # Inside: a pause whose answer was lost must be ended too.
            await server.call("/pause?mode=wait")
            for path in _CACHES:
                answer = await server.call(path)
                if answer.get("success") is False:
                    raise EndpointError(f"{server.address}: {path} failed")
            reload = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
            await server.call("/collective_rpc", reload)
        finally:
            await server.call("/resume")
        self._drop_others(folder, "pvrl-weights-*")

    async def _publish_adapters(self, server: VLLMServer, version: int) -> None:
        from pyvision_rl.models.adapters import save_adapters

        folder = self._fresh(f"pvrl-adapter-{version:06d}")
        module: Any = self._model.module
        save_adapters(module, folder)
        # A name of its own for each: prefixes are cached by name, and none of an old one is found.
        name = f"pvrl-{version:06d}-{time.time_ns():x}"
        asked = {"lora_name": name, "lora_path": str(folder)}
        try:
            await server.call("/v1/load_lora_adapter", asked)
        except EndpointError as error:
            # The answer to a first try was lost: no other adapter has this name.
            if "already been loaded" not in str(error):
                raise
        before, self._adapter = self._adapter, name
        self._policy.use_adapter(name)
        if before:
            try:
                await server.call("/v1/unload_lora_adapter", {"lora_name": before})
            except EndpointError as error:
                if error.status != HTTPStatus.NOT_FOUND:  # a server that was started anew
                    raise
        self._drop_others(folder, "pvrl-adapter-*")

    def _fresh(self, name: str) -> Path:
        folder = self._folder / name
        # Left by a run that was stopped at the same version.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _drop_others(self, folder: Path, pattern: str) -> None:
        for other in self._folder.glob(pattern):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)

    async def _their_scores(self, server: VLLMServer) -> Scores:
        sampling = {"max_tokens": 1, "temperature": 0.0, "logprobs": 0, "prompt_logprobs": 0}
        found: list[float] = []
        for segments in self._canary.sequences:
            asked = await self._policy.writer.write(segments)
            answer = await server.generate(asked, sampling, self._adapter or self._served.name)
            if difference := asked.compare(answer.prompt_ids, answer.spans):
                raise EndpointError(f"{server.address} misread a prompt: {difference}")
            keep = scored(asked.expanded, self._policy.facts.image_token_id)
            told = zip(answer.prompt_logprobs[1:], keep.tolist(), strict=True)
            found += [p for p, kept in told if kept and p is not None]
        return np.array(found)
