"""Policies: who writes the turns. ``TABLE`` maps the short names a config may use."""

TABLE: dict[str, str] = {
    "local": "pyvision_rl.policy.local:LocalPolicy",
    "openai_chat": "pyvision_rl.policy.openai_chat:OpenAIChatPolicy",
    "vllm": "pyvision_rl.policy.vllm:VLLMPolicy",
    "scripted": "pyvision_rl.policy.scripted:ScriptedPolicy",
}
