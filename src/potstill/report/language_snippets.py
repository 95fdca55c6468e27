"""Code that runs a language model of this run without Potstill."""

from __future__ import annotations

GENERATE = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{student}")
model = AutoModelForCausalLM.from_pretrained("{student}")
prompt = "a text of yours"
if tokenizer.chat_template:
    turns = [{{"role": "user", "content": prompt}}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
tokens = tokenizer(prompt, return_tensors="pt", add_special_tokens=not tokenizer.chat_template)
answer = model.generate(**tokens, max_new_tokens=100)
print(tokenizer.decode(answer[0, tokens["input_ids"].shape[1]:], skip_special_tokens=True))"""
