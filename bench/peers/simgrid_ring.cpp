// Ring all-reduce among SimGrid actors, a message each step and rank; simgrid_ring.py compiles, runs and describes it.
// Arguments: ring|switch, ranks, message_bytes, steps, bandwidth_bytes_per_s, latency_s; SimGrid's options before them.
// Prints SimGrid's version, the simulated seconds and the user CPU seconds of this process.

#include <cstdio>
#include <string>
#include <sys/resource.h>
#include <vector>

#include <simgrid/s4u.hpp>
#include <simgrid/version.h>

namespace s4u = simgrid::s4u;

static const s4u::Link* make_link(s4u::NetZone* zone, const std::string& name, double bandwidth_bytes_per_s,
                                  double latency_s)
{
  return zone->create_link(name, bandwidth_bytes_per_s)->set_latency(latency_s)->seal();
}

// A link from each rank to its successor.
static std::vector<s4u::Host*> build_ring(int ranks, double bandwidth_bytes_per_s, double latency_s)
{
  auto* zone = s4u::create_full_zone("ring");
  std::vector<s4u::Host*> hosts;
  for (int rank = 0; rank < ranks; rank++)
    hosts.push_back(zone->create_host("rank-" + std::to_string(rank), 1.0));
  for (int rank = 0; rank < ranks; rank++) {
    const auto* link = make_link(zone, "link-" + std::to_string(rank), bandwidth_bytes_per_s, latency_s);
    zone->add_route(hosts[rank]->get_netpoint(), hosts[(rank + 1) % ranks]->get_netpoint(), nullptr, nullptr,
                    {s4u::LinkInRoute(link)}, false);
  }
  zone->seal();
  return hosts;
}

// A link from each rank to the switch and one back; the switch itself costs nothing.
static std::vector<s4u::Host*> build_switch(int ranks, double bandwidth_bytes_per_s, double latency_s)
{
  auto* zone = s4u::create_star_zone("switch");
  std::vector<s4u::Host*> hosts;
  for (int rank = 0; rank < ranks; rank++) {
    hosts.push_back(zone->create_host("rank-" + std::to_string(rank), 1.0));
    const auto* up   = make_link(zone, "up-" + std::to_string(rank), bandwidth_bytes_per_s, latency_s);
    const auto* down = make_link(zone, "down-" + std::to_string(rank), bandwidth_bytes_per_s, latency_s);
    auto* point      = hosts[rank]->get_netpoint();
    zone->add_route(point, nullptr, nullptr, nullptr, {s4u::LinkInRoute(up)}, false);
    zone->add_route(nullptr, point, nullptr, nullptr, {s4u::LinkInRoute(down)}, false);
  }
  zone->seal();
  return hosts;
}

// Each step: send to the successor, wait for the predecessor's message, and wait until the own one has arrived.
static void work(int rank, int ranks, uint64_t message_bytes, long steps)
{
  auto* to_successor     = s4u::Mailbox::by_name(std::to_string((rank + 1) % ranks));
  auto* from_predecessor = s4u::Mailbox::by_name(std::to_string(rank));
  int payload            = 0;
  for (long step = 0; step < steps; step++) {
    auto sent = to_successor->put_async(&payload, message_bytes);
    from_predecessor->get<int>();
    sent->wait();
  }
}

int main(int argc, char* argv[])
{
  s4u::Engine engine(&argc, argv); // takes its options out of argv
  const std::string topology         = argv[1];
  const int ranks                    = std::stoi(argv[2]);
  const uint64_t message_bytes       = std::stoull(argv[3]);
  const long steps                   = std::stol(argv[4]);
  const double bandwidth_bytes_per_s = std::stod(argv[5]);
  const double latency_s             = std::stod(argv[6]);

  const auto hosts = topology == "ring" ? build_ring(ranks, bandwidth_bytes_per_s, latency_s)
                                        : build_switch(ranks, bandwidth_bytes_per_s, latency_s);
  for (int rank = 0; rank < ranks; rank++)
    s4u::Actor::create("rank-" + std::to_string(rank), hosts[rank], work, rank, ranks, message_bytes, steps);
  engine.run();

  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  std::printf("%d.%d %.12f %.6f\n", SIMGRID_VERSION_MAJOR, SIMGRID_VERSION_MINOR, s4u::Engine::get_clock(),
              usage.ru_utime.tv_sec + 1e-6 * usage.ru_utime.tv_usec);
}
