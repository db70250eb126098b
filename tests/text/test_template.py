"""Chat templates: as transformers renders them, sandboxed, and with errors of one line."""

from datetime import datetime
from typing import Any

import pytest
from tokenizers import Tokenizer as Core
from tokenizers import decoders, models

from unmask.text import ChatTemplate, Tokenizer, render_chat

USER: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Sei kurz & <höflich>."},
    {"role": "user", "content": [{"type": "text", "text": "zwei\nZeilen"}, {"type": "text", "text": " und mehr"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": {"x": "ü", "y": [1, 2.5, None, True]}}}
        ],
    },
    {"role": "tool", "content": "42", "name": "f"},
    {"role": "assistant", "content": " <think>so</think> fertig "},
]
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "f", "description": "<b>ü</b>", "parameters": {}}}
]
CORE = Core(models.BPE())
CORE.decoder = decoders.ByteLevel()

TEMPLATES = {
    "whitespace": """
    {%- for message in messages %}
        {% if loop.first %}
    first {{ message.role }}
        {% endif %}
      {{- message['role'] }}
    {% endfor %}
    tail
""",
    "json": "{{ tools | tojson }}|{{ tools | tojson(indent=2) }}|"
    "{{ messages[2].tool_calls[0].function.arguments | tojson }}",
    "loop controls": "{% for m in messages %}{% if m.role == 'tool' %}{% break %}{% endif %}"
    "{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.role }};{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "parts": "{% for m in messages %}{% if m.content is string %}{{ m.content | trim }}{% else %}"
    "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}\n{% endfor %}",
    "macro": "{% macro say(m) %}[{{ m.role|upper }}: {{ m.content if m.content is string else '...' }}]{% endmacro %}"
    "{% for m in messages %}{{ say(m) }}{% endfor %}",
    "tokens": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ unknown_name }}",
    "split": "{{ messages[-1].content.split('</think>')[-1].strip() }}{{ messages[-1]['content'][1:8] }}",
    "variables": "{% if enable_thinking is defined and not enable_thinking %}"
    "<think></think>{% else %}<think>\n{% endif %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.role }}\n{% endgeneration %}{% endfor %}",
    "missing keys": "{{ messages[2].content is defined }} {{ messages[0].tool_calls }} "
    "{{ messages[0].get('name', '-') }}",
    "date": "{{ strftime_now('%Y') }} {{ strftime_now('%d %b') | length }}",
    "prompt": "{{ add_generation_prompt }} {{ documents is none }} {{ 3 // 2 }} {{ dict(a=1) | tojson }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [False, True])
def test_rendering_equals_transformers(name: str, prompt: bool) -> None:
    from transformers import PreTrainedTokenizerFast

    build: Any = PreTrainedTokenizerFast
    reference = build(tokenizer_object=CORE, bos_token="<s>", eos_token="</s>")
    variables: dict[str, Any] = {"enable_thinking": prompt} if prompt else {}
    expected = reference.apply_chat_template(
        CHAT, TOOLS, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=prompt, **variables
    )
    template = ChatTemplate(TEMPLATES[name], {"bos_token": "<s>", "eos_token": "</s>"})
    assert render_chat(template, CHAT, add_generation_prompt=prompt, tools=TOOLS, variables=variables) == expected


def test_chatml_stands_in_for_a_missing_template() -> None:
    template = ChatTemplate.of(Tokenizer(CORE))
    assert render_chat(template, USER) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert render_chat(template, USER, add_generation_prompt=False) == "<|im_start|>user\nHi<|im_end|>\n"


def test_a_checkpoints_template_sees_its_special_tokens() -> None:
    tokenizer = Tokenizer(
        CORE, {"bos_token": "<s>"}, chat_template="{{ bos_token }}{{ messages[0].content }}{{ mood }}"
    )
    assert render_chat(ChatTemplate.of(tokenizer), USER, variables={"mood": "!"}) == "<s>Hi!"


def test_the_date_is_today() -> None:
    assert datetime.strptime(render_chat(ChatTemplate("{{ strftime_now('%Y-%m-%d') }}"), USER), "%Y-%m-%d")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__subclasses__() }}",
        "{{ raise_exception.__globals__.json }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ messages.append(1) }}",
        "{% set messages[0].role = 1 %}",
        "{{ open('x') }}",
        "{% include 'x' %}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{{ (messages | map(attribute='__class__') | first).__mro__ }}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    with pytest.raises(ValueError, match=r"^the chat template [^\n]+$"):
        render_chat(ChatTemplate(source), USER)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('no\nsystem role') }}", "^the chat template failed: no system role$"),
        ("{{ messages[0].nothing.more }}", r"^the chat template failed: [^\n]*no attribute 'nothing'$"),
        ("{{ 1 // 0 }}", r"^the chat template failed: [^\n]*zero$"),
        ("{{ 'a' + 1 }}", r"^the chat template failed: [^\n]*str[^\n]*$"),
    ],
)
def test_failing_templates_give_one_line(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_chat(ChatTemplate(source), USER)


def test_broken_source_is_refused_when_loaded() -> None:
    with pytest.raises(ValueError, match=r"^the chat template is not valid Jinja: [^\n]*$"):
        ChatTemplate("{% if %}\n{% endif %}")


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ("hi", "message 1 must be an object with a role and a content, got str"),
        ({"content": "x"}, "message 1 has no role"),
        ({"role": "user"}, "message 1 has no content"),
        ({"role": 3, "content": "x"}, "message 1 has role 3: a role must be a string"),
        ({"role": "user", "content": 3}, "message 1 has content 3: use a string, a list of parts or null"),
        ({"role": "user", "content": "x", "extra": object()}, "must be plain JSON data"),
    ],
)
def test_malformed_messages_are_named(message: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        render_chat(ChatTemplate(), [*USER, message])


def test_messages_are_not_changed() -> None:
    chat = [{"role": "user", "content": ["a"]}]
    render_chat(ChatTemplate("{% for m in messages %}{{ m.content | join }}{% endfor %}"), chat)
    assert chat == [{"role": "user", "content": ["a"]}]


def test_variables_cannot_replace_the_chat() -> None:
    with pytest.raises(ValueError, match=r"must not be named \['messages'\]"):
        render_chat(ChatTemplate(), USER, variables={"messages": [], "mood": 1})
