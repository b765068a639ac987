"""What the served model's pods and its users need: fetching the model, its engine, the API in front, a small client.

    python -m sovereign.serving fetch --store s3:// --prefix models/demo/register/HEX/ --digest HEX --into DIR
    python -m sovereign.serving engine --model FOLDER/model.gguf --context 256 --port 8001
    python -m sovereign.serving front --engine http://127.0.0.1:8001 --model-dir FOLDER --name sovereign/demo --port 80
    python -m sovereign.serving probe --url http://127.0.0.1:8000 --model sovereign/demo

What computes is upstream's: llama.cpp on CPU nodes (for models that cannot be a GGUF file transformers, behind
training/engine_server.py), vLLM on GPU nodes. On CPU nodes clients see the front alone.
"""
