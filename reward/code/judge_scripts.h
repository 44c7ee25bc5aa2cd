// Programs that stand between assertions and the code that they judge, so that neither sees the other: an assertion runs in a sandbox of its
// own and reaches what the completion defines through values that cross a pipe. Only plain values cross (numbers, strings, lists, ...), so an
// object whose == is always true, a patched builtin, os._exit(0) or a forged "passed" has nothing to forge.
#pragma once

namespace grouper::code {

// python3 -B /code/candidate.py: serves what /code/main.py defines; one JSON request a line on stdin, one answer a line on stdout.
extern const char kPythonCandidate[];

// python3 -B /code/judge.py [stop]: runs the assertions of /code/tests.json against the program at the other end of stdin and stdout. Writes
// \x01 and a character a test to stderr: '0' passed, '1' wrong, '2' the program raised, '3' the program is gone, '4' the test itself cannot be
// judged; then a newline and the first failure in words. With "stop" it ends at the first failure.
extern const char kPythonJudge[];

// C++: put before the completion's code, and between it and main. grouper_judge::Show gives equal texts for equal values of numbers, strings,
// pairs, tuples, optionals and containers.
extern const char kCppBefore[];
extern const char kCppShow[];

}  // namespace grouper::code
