// Makes dashboard-fleet.png and dashboard-bridges.png anew, of a Prometheus that has watched a rollout (`make up`, `fettle-device
// fleet`; scraped every 5 s, with the labels namespace and pod). In a folder outside of the checkout, with Debian's chromium:
//
//     npm install @grafana/{ui,data,schema}@11.6.0 react@18 react-dom@18 rxjs@7 uplot esbuild playwright-core --legacy-peer-deps
//     for package in ui data schema e2e-selectors; do    # esbuild reads .mjs otherwise than the tools that Grafana is built with
//         find node_modules/@grafana/$package -name '*.mjs' -exec sh -c 'sed "s/\.mjs\([\x27\"]\)/.js\1/g" "$1" > "${1%.mjs}.js"' - {} \;
//         sed -i 's/\.mjs"/.js"/g' node_modules/@grafana/$package/package.json
//     done
//     cp CHECKOUT/docs/images/{dashboard.jsx,screens.mjs} .
//     npx esbuild dashboard.jsx --bundle --format=esm --outfile=page.js --define:global=window \
//         --loader:.svg=dataurl --loader:.png=dataurl --loader:.woff2=dataurl --loader:.ttf=dataurl
//     node screens.mjs CHECKOUT http://127.0.0.1:9090 MINUTES
//
// alerts.png is Prometheus' own page, /classic/alerts of Debian's.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { chromium } from 'playwright-core';

const [checkout, prometheus, minutes] = process.argv.slice(2);
const files = {
  '/': ['text/html', () => '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="/page.css"><div id="root"></div><script type="module" src="/page.js"></script>'],
  '/page.js': ['text/javascript', () => readFileSync('page.js')],
  '/page.css': ['text/css', () => readFileSync('page.css')],
  '/dashboard.json': ['application/json', () => readFileSync(`${checkout}/charts/fettle/monitoring/dashboard.json`)],
};
const server = createServer(async (request, answer) => {
  const [type, content] = files[request.url.split('?')[0]] ?? [];
  if (type) { return answer.setHeader('content-type', type).end(content()); }
  const given = await fetch(prometheus + request.url);
  answer.setHeader('content-type', 'application/json').end(await given.text());
});
await new Promise((listens) => server.listen(0, '127.0.0.1', listens));

const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
const page = await browser.newPage({ viewport: { width: 1608, height: 3056 } });
page.on('pageerror', (error) => console.error(error));
page.on('console', (message) => message.type() === 'error' && console.error(message.text()));
const to = Math.floor(Number(process.env.TO ?? Date.now() / 1000));
await page.goto(`http://127.0.0.1:${server.address().port}/?from=${to - minutes * 60}&to=${to}`);
const { panels } = JSON.parse(files['/dashboard.json'][1]());
const drawn = panels.filter(({ type }) => type !== 'row').length;
await page.waitForFunction((drawn) => Number(document.body.dataset.drawn) >= drawn, drawn);
await page.waitForLoadState('networkidle');
// down to the row "Bridges", and from there on
const parted = 8 + panels.find(({ title }) => title === 'Bridges').gridPos.y * 38;
await page.screenshot({ path: 'dashboard-fleet.png', clip: { x: 0, y: 0, width: 1608, height: parted } });
await page.screenshot({ path: 'dashboard-bridges.png', clip: { x: 0, y: parted, width: 1608, height: 3056 - parted } });
await browser.close();
server.close();
