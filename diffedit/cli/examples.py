"""The examples at the end of every command's `--help`."""

EDIT = """
Turn a red cup into a green one, into cup.edited.png:
  diffedit-trt edit cup.jpg --source "a red cup" -p "a green cup"

Make two edits in one pass, which share most of the work:
  diffedit-trt edit table.jpg --edit "a red cup -> a green cup" \\
    --edit "a pear -> an apple"

Write the input, heatmap, mask and result side by side:
  diffedit-trt edit cup.jpg -p "a green cup" --panel panel.png

Use your own mask and a larger model:
  diffedit-trt edit cup.jpg -p "a green cup" --mask mask.png --model ./sd15
"""

MASK = """
Write the mask to cup.mask.png:
  diffedit-trt mask cup.jpg --source "a red cup" -p "a green cup"

Average more noise samples, and write the heatmap too:
  diffedit-trt mask cup.jpg -p "a green cup" --maps 20 --heatmap-out heat.png

Find it once, then try other options in milliseconds:
  diffedit-trt mask cup.jpg -p "a green cup" --heatmap-out heat.npy
  diffedit-trt mask cup.jpg --refine heat.npy --mask-threshold 0.4 --force
"""

REPLAY = """
Repeat an edit and compare the pictures:
  diffedit-trt replay cup.edited.png cup.jpg

Apply the same edit to another photograph:
  diffedit-trt replay cup.edited.png other.jpg --any-input -o other.edited.png
"""

RESTORE = """
Take only the changes from another editor's picture, into table.restored.png:
  diffedit-trt restore table.jpg edited.png

Find weaker changes too, and write the steps side by side:
  diffedit-trt restore table.jpg edited.png --panel panel.png --threshold 2

Pass the changed region as a mask:
  diffedit-trt restore table.jpg edited.png --mask mask.png
"""

BATCH = """
Run all edits of a file:
  diffedit-trt batch edits.jsonl --model ./sd15

The same from standard input, with more edits at a time:
  cat edits.jsonl | diffedit-trt batch - --in-flight 16

In two worker processes of this machine, or on the GPUs of a Ray cluster:
  diffedit-trt batch edits.jsonl --ray --ray-actors 2
  diffedit-trt batch edits.jsonl --ray --ray-address 10.0.0.1:6379

One line of edits.jsonl:
  {"image": "cup.jpg", "out": "green.png", "prompt": "a green cup", "seed": 1}

One with two edits in one pass:
  {"image": "a.jpg", "out": "b.png", "edits": ["cup -> jug", "pear -> fig"]}
"""

SERVE = """
Serve the demo model at http://127.0.0.1:8000/:
  diffedit-trt serve

Serve a compiled model to other machines, with API keys:
  diffedit-trt serve --model ./sd15 --engines ./engines --host 0.0.0.0 \\
    --api-keys keys.txt --allowed-host edit.example.com

One replica per GPU:
  diffedit-trt serve --model ./sd15 --ray --replicas 4
"""

ENGINES_LIST = """
List the networks in a folder:
  diffedit-trt engines list ./engines

The same as JSON:
  diffedit-trt engines list ./engines --json
"""

ENGINES_EXPLAIN = """
Check whether this machine can use a folder:
  diffedit-trt engines explain ./engines

Check it against a model as well:
  diffedit-trt engines explain ./engines --model ./sd15
"""

DOCTOR = """
Check this machine:
  diffedit-trt doctor

Also say how much memory a model needs, for edits and for a build:
  diffedit-trt doctor ./sdxl

Also check which backend would run a folder of engines, as JSON:
  diffedit-trt doctor --engines ./engines --json
"""

PROGRAM = """
Edit a photograph with the demo model:
  diffedit-trt edit cup.jpg --source "a red cup" -p "a green cup"

Compile a model for this machine and use it:
  diffedit-trt build ./sd15 --out ./engines
  diffedit-trt edit cup.jpg -p "a green cup" --model ./sd15 \\
    --engines ./engines

Check what is installed:
  diffedit-trt doctor
"""
