#!/usr/bin/env python3
"""A reward service in Python: any server of proto/reward.proto can take the place of `grouper serve reward`.

    apt-get install python3-grpcio python3-grpc-tools
    /usr/bin/python3 -m grpc_tools.protoc -I . --python_out=. --grpc_python_out=. proto/reward.proto     # from the repository's root
    /usr/bin/python3 recipes/rules/examples/remote_rule_server.py --listen 127.0.0.1:50061
    build/grouper run RECIPE --set reward.address=127.0.0.1:50061

It scores one rule, "short": 1 for at most 100 tokens, else 0. A recipe with evaluations needs --set stages[NAME].eval.rule=short then.
"""
import argparse
import os
import sys
from concurrent import futures

sys.path.insert(0, os.getcwd())  # where protoc wrote proto/reward_pb2.py

import grpc
from proto import reward_pb2 as pb
from proto import reward_pb2_grpc

NAMES, WEIGHTS = ["short"], [1.0]


def score_completion(completion, row_json):
    score = 1.0 if completion.num_tokens <= 100 else 0.0
    result = pb.RuleResult(status=pb.RULE_STATUS_SCORED, score=score, reason=f"{completion.num_tokens} tokens")
    return pb.CompletionScore(has_reward=True, reward=WEIGHTS[0] * score, rules=[result])


class Service(reward_pb2_grpc.RewardServiceServicer):
    def Score(self, request, context):
        groups = [
            pb.GroupScore(group_serial=g.group_serial, completions=[score_completion(c, g.row_json) for c in g.completions])
            for g in request.groups
        ]
        return pb.ScoreResponse(request_id=request.request_id, rule_names=NAMES, weights=WEIGHTS, groups=groups)

    def GetStatus(self, request, context):
        return pb.RewardStatus(rule_names=NAMES, process_id=str(os.getpid()), rules_digest="python-short-1")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", default="127.0.0.1:50061")
    address = parser.parse_args().listen
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)])
    reward_pb2_grpc.add_RewardServiceServicer_to_server(Service(), server)
    if server.add_insecure_port(address) == 0:
        sys.exit(f"cannot listen on {address}")
    server.start()
    print(f"listening on {address}", flush=True)
    server.wait_for_termination()
