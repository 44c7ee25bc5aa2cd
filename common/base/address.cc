#include "common/base/address.h"

#include <arpa/inet.h>

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace grouper {
namespace {

bool IsIpv6(absl::string_view host) {
  in6_addr parsed;
  return inet_pton(AF_INET6, std::string(host.substr(0, host.find('%'))).c_str(), &parsed) == 1;  // after %, the interface
}

bool IsHost(absl::string_view host) {
  for (const char c : host) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '-' && c != '_') return false;
  }
  if (host.empty() || host.find_first_not_of("0123456789.") != host.npos) return !host.empty();
  in_addr parsed;
  return inet_pton(AF_INET, std::string(host).c_str(), &parsed) == 1;
}

absl::Status Check(absl::string_view address, int least_port) {
  absl::string_view rest = address;
  for (const absl::string_view socket : {"unix:", "unix-abstract:"}) {
    if (absl::ConsumePrefix(&rest, socket) && !rest.empty()) return absl::OkStatus();
  }
  for (const absl::string_view scheme : {"dns:///", "dns:", "ipv4:", "ipv6:"}) {
    if (absl::ConsumePrefix(&rest, scheme)) break;
  }
  const size_t colon = rest.rfind(':');
  absl::string_view host = rest.substr(0, colon);
  const bool brackets = absl::ConsumePrefix(&host, "[") && absl::ConsumeSuffix(&host, "]");
  const absl::string_view port_text = colon == rest.npos ? "" : rest.substr(colon + 1);
  int port = -1;
  const bool digits = !port_text.empty() && port_text.find_first_not_of("0123456789") == port_text.npos;
  if (digits && absl::SimpleAtoi(port_text, &port) && port >= least_port && port <= 65535 && (brackets ? IsIpv6(host) : IsHost(host))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("\"", address, "\", expected HOST:PORT with a port of ", least_port,
                                                 "..65535 (IPv6 as [HOST]:PORT), or unix:PATH"));
}

}  // namespace

absl::Status CheckListenAddress(absl::string_view address) { return Check(address, 0); }
absl::Status CheckPeerAddress(absl::string_view address) { return Check(address, 1); }

}  // namespace grouper
