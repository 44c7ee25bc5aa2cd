#!/usr/bin/env bash
# Does a run end in the same bits when it is killed and resumed? Runs a recipe once undisturbed, then again with KILLS `kill -9`s at random moments,
# each followed by --resume, and compares the digests of weights and completions.
#   scripts/kill_and_resume.sh RECIPE KILLS [--seed N] [--out DIR] [argument of `grouper run` ...]
#   scripts/kill_and_resume.sh recipes/smoke.textproto 5 --seed 3 --set seed=2
# --seed draws the moments (default 1; with the machine's speed they differ from one time to the next). Into DIR (default: a fresh folder in /tmp, whose
# name is printed) go plain/ and killed/ and their logs. Exit status 0: the digests are the same, and every kill hit a
# running process.
# Arguments' relative paths are of the current folder.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
grouper=${GROUPER:-$root/build/grouper}

die() { echo "kill_and_resume.sh: $1" >&2; exit 2; }
[ $# -ge 2 ] || die "expected RECIPE KILLS [--seed N] [--out DIR] [argument of grouper run ...]"
recipe=$1 kills=$2
shift 2
[ -f "$recipe" ] || [ ! -f "$root/$recipe" ] || recipe=$root/$recipe
[ -f "$recipe" ] || die "RECIPE: no file $recipe"
[[ $kills =~ ^[1-9][0-9]*$ ]] || die "KILLS: \"$kills\", expected a number, at least 1"
[ -x "$grouper" ] || die "no program $grouper; scripts/build.sh grouper makes it"
seed=1 out=
more=()
while [ $# -gt 0 ]; do
  case $1 in
    --seed) seed=${2-}; shift 2 || die "--seed: expected a number" ;;
    --out) out=${2-}; shift 2 || die "--out: expected a folder" ;;
    *) more+=("$1"); shift ;;
  esac
done
[[ $seed =~ ^[0-9]+$ ]] || die "--seed: \"$seed\", expected a number"
if [ -z "$out" ]; then out=$(mktemp -d /tmp/kill_and_resume.XXXXXX); else mkdir -p "$out"; fi
[ ! -e "$out/plain" ] && [ ! -e "$out/killed" ] || die "--out $out: has an earlier comparison in it, expected another folder"
RANDOM=$seed

now_ms() { date +%s%3N; }
digests() { "$grouper" inspect "$1" | sed -n 's/^\(weights\|completions\)_digest: //p' | head -2; }
# Of metrics.jsonl, which a run has written so far.
rows() { if [ -f "$1/metrics.jsonl" ]; then wc -l < "$1/metrics.jsonl"; else echo 0; fi; }
seconds() { printf "%d.%0$2d" $(($1 / 1000)) $(($1 % 1000 / 10 ** (3 - $2))); }  # MILLISECONDS DIGITS
child=
trap '[ -z "$child" ] || kill -9 "$child" 2>/dev/null || true' EXIT

echo "undisturbed: $out/plain"
begin=$(now_ms)
"$grouper" run "$recipe" --out "$out/plain" "${more[@]}" > "$out/plain.log" 2>&1 &
child=$!
while kill -0 "$child" 2>/dev/null && [ ! -s "$out/plain/metrics.jsonl" ]; do sleep 0.02; done
start=$(($(now_ms) - begin))
wait "$child" || { tail -5 "$out/plain.log" >&2; die "the undisturbed run failed, see $out/plain.log"; }
child=
took=$(($(now_ms) - begin))
echo "  $(seconds "$took" 1) s, the first step done after $(seconds "$start" 1) s, $(rows "$out/plain") rows of metrics.jsonl"

echo "killed:      $out/killed"
printf '  %4s  %8s  %s\n' kill after rows
# A life lasts from half of what a first step takes up to that and 1.8 times a share of all steps; what is lost with each keeps the run from ending before
# the last kill.
least=$((start / 2)) most=$((start + (took - start) * 9 / (5 * (kills + 1))))
hits=0 resume=()
for ((i = 1; i <= kills; ++i)); do
  life=$((least + (RANDOM << 15 | RANDOM) % (most - least + 1)))
  "$grouper" run "$recipe" --out "$out/killed" "${more[@]}" "${resume[@]}" >> "$out/killed.log" 2>&1 &  # not a function: $! is the program
  child=$!
  sleep "$(seconds "$life" 3)"
  kill -9 "$child" 2>/dev/null || true
  status=0
  wait "$child" 2>/dev/null || status=$?
  child=
  [ $status = 137 ] || [ $status = 0 ] || { tail -5 "$out/killed.log" >&2; die "the run failed (exit status $status), see $out/killed.log"; }
  # Before its recipe is there, the folder is no run that --resume knows.
  if [ -f "$out/killed/recipe.textproto" ]; then resume=(--resume); fi
  [ $status = 137 ] || break
  hits=$i
  printf '  %4d  %6s s  %s\n' "$i" "$(seconds "$life" 2)" "$(rows "$out/killed")"
done
"$grouper" run "$recipe" --out "$out/killed" "${more[@]}" "${resume[@]}" >> "$out/killed.log" 2>&1 || { tail -5 "$out/killed.log" >&2; die "the last --resume failed, see $out/killed.log"; }

plain=($(digests "$out/plain")) || die "grouper inspect failed on $out/plain"
killed=($(digests "$out/killed")) || die "grouper inspect failed on $out/killed"
result=0
compare() {  # NAME PLAIN KILLED
  local word=same
  if [ -z "$2" ] || [ "$2" != "$3" ]; then word=DIFFERENT result=1; fi
  printf '%-12s %-64s  %s\n' "$1" "$2" "$word"
  if [ $word != same ]; then printf '%-12s %-64s\n' "" "$3"; fi
}
compare weights "${plain[0]-}" "${killed[0]-}"
compare completions "${plain[1]-}" "${killed[1]-}"
echo "$hits of $kills kills hit a running process"
if [ "$hits" -lt "$kills" ]; then
  echo "kill_and_resume.sh: the run had ended before; ask for fewer KILLS or more steps" >&2
  result=1
fi
exit $result
