import asyncio, sys
from pathlib import Path
from tests.system.client import Client, eventually
from tests.system.test_drain import told_to_wait, ready_status
import pytest
@pytest.mark.timeout(500)
async def test_loop(headless, headless_client, tmp_path):
    client=headless_client
    job_type=headless.handled("patient")
    for i in range(14):
        w,ports=headless.worker(WORKER_CONCURRENCY="2", SHUTDOWN_GRACE="20")
        payloads=[told_to_wait(tmp_path,f"{i}-{n}") for n in range(6)]
        jobs=[await client.submit(job_type,p) for p in payloads]
        running = await eventually(lambda: client.listed(f'state = RUNNING AND job_type = "{job_type}"'), lambda found: len(found) == 2)
        w.terminate()
        await asyncio.sleep(0.5)
        for p in payloads: Path(p["release"]).touch()
        try:
            code = w.await_end(15)
        except AssertionError: 
            code="HANG"; 
        print(i, code, [ (j.state,j.attempts,j.deliveries) for j in [await client.job(r.job_id) for r in running]])
        print(w.log if code!=0 or any([(await client.job(r.job_id)).state!=7 for r in running]) else "")
        w.kill()
        w2,_=headless.worker()
        for j in jobs: await client.settled(j)
        w2.kill()
