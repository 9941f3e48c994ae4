"""A web crawler: an actor whose `async def` method fetches many pages at once. (The web is a local server here.)"""

import asyncio
import http.server
import re
import threading
import time
from urllib.parse import urljoin

from pactor import Actor, ask


class Fetcher:
    """Fetches pages; 50 at once are a load that servers bear."""

    async def links(self, url):
        host, port, path = re.fullmatch(r"http://(.+):(\d+)(/.*)", url).groups()
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            page = (await reader.read()).decode()
        finally:
            writer.close()
        return [urljoin(url, link) for link in re.findall('href="(.+?)"', page)]


class Pages(http.server.BaseHTTPRequestHandler):
    """A slow site of 100 pages: each links to three others."""

    def do_GET(self):
        time.sleep(0.05)
        links = [f'<a href="/{(3 * int(self.path[1:]) + i) % 100}">' for i in range(3)]
        self.send_response(200)
        self.end_headers()
        self.wfile.write("".join(links).encode())

    def log_message(self, *args):
        pass


class Site(http.server.ThreadingHTTPServer):
    request_queue_size = 100  # its default, 5, loses connections that come at once, and who opened them waits for ever


async def crawl(fetcher, start):
    seen, found = {start}, {start}
    while found:  # a generation of pages after the other
        links = await asyncio.gather(*(ask(fetcher.links, url) for url in found))
        found = {url for page in links for url in page} - seen
        seen |= found
    return seen


if __name__ == "__main__":
    with Site(("127.0.0.1", 0), Pages) as server:
        with Actor(Fetcher(), concurrency=50) as fetcher:  # before the server's thread: forks and threads don't mix
            threading.Thread(target=server.serve_forever, daemon=True).start()
            print(len(asyncio.run(crawl(fetcher.proxy, f"http://127.0.0.1:{server.server_port}/0"))), "pages")
            server.shutdown()
